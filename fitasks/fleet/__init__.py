"""Kernels that other machines compile for this one."""
