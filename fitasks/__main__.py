"""`python -m fitasks` and `fitasks`: see graph/main.py."""

import sys


def main() -> int:
    """Do what the command line says; the exit status. Importing all of it takes 0.3 s, in which Ctrl-C may come."""
    try:
        from fitasks.graph.main import main as fitasks

        return fitasks(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
