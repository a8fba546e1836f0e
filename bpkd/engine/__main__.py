"""``python -m bpkd.engine``: the same command line as tools/train_net.py, where only the package is installed."""

import sys

from .launch import cli

if __name__ == "__main__":
    sys.exit(cli())
