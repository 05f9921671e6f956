"""KernelConfig → Kernel: FlashInfer's own module specifications, asked of the serving interpreter, and cached."""
