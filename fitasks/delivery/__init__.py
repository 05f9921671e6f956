"""Finished kernels on their way to another machine: provider wheels and bundles."""
