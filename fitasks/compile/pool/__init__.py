"""Which file is compiled when, and how many at once."""
