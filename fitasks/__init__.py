"""fitasks: compile FlashInfer's kernels beforehand, and prove that the server will compile nothing."""

import os
import resource
import sys

if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
    # Where files may not be of any size (ulimit -f), Python 3.11 leaves byte code cut short, and then stumbles over it
    # for ever: in our own modules, and in those of the server, whose interpreter we run with this environment.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
