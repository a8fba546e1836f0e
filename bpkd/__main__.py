"""``python -m bpkd``: the same as the command ``bpkd``."""

import sys

from bpkd.cli import main

if __name__ == "__main__":
    sys.exit(main())
