"""Finished kernels elsewhere: in a directory, S3, GCS, Azure, behind HTTP.

In the order of imports:

    trouble     what can go wrong: nothing there, refused, off
    layout      which object is called what, and how large it may be
    keys        ed25519: made, read, signs, verifies
    manifest    a receipt, and who vouches for it: believed or refused
    origin      beside a fetched kernel: whence it came, and whose word for it is taken
    objects     one store's objects, through obstore
    breaker     how long a run waits for a store in all, before it goes on without
    loop        the thread that all of this runs in
    staging     where files are until they are whole
    fetch       what a store has of a kernel, and how it comes here
    push        how a kernel goes there
    shelf       what is in a store, and what may go
"""
