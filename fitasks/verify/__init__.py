"""`doit verify`: every kernel loaded, and where a reference exists computed, on real GPUs, in parallel across them."""
