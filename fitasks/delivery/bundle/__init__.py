"""One file of kernels, to be laid into a cache or a store elsewhere."""
