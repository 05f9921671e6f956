"""The package that FlashInfer loads kernels from, without ninja, nvcc or a cache."""
