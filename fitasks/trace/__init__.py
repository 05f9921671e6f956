"""What a server asked FlashInfer for, and kernels.yaml entries for it."""
