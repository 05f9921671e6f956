"""fitasks: compile FlashInfer's kernels beforehand, and prove that the server will compile nothing."""
