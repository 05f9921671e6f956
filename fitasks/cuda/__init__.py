"""The CUDA side of the environment: toolkit, runtime library, GPUs."""
