"""`python -m illm.server`: the same as `illm serve`."""

import sys

from illm.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["serve", *sys.argv[1:]]))
