"""`python -m local.bench`: measure, and write artifacts/bench.md with its pictures in artifacts/bench/."""

import sys

from local.bench.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
