"""`python -m fitasks` and `fitasks`: see graph/main.py."""

import sys

from fitasks.graph.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
