"""Finished kernels by content."""
