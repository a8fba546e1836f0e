#!/usr/bin/env python3
"""The same as `bpkd suggest-grids`; --help lists the options."""

import sys

from bpkd.cli import run


def main(argv: list[str] | None = None) -> int:
    """Runs `bpkd suggest-grids` and returns its exit status."""
    return run("suggest-grids", argv)


if __name__ == "__main__":
    sys.exit(main())
