"""`python -m bench`: measure, and write artifacts/bench.md and artifacts/bench.png."""

import sys

from bench.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
