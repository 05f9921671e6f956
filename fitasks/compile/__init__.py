"""Kernel → receipt: what is stale and why, compiling it, putting timestamps right."""
