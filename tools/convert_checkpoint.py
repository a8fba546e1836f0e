#!/usr/bin/env python3
"""The same as `bpkd convert`; --help lists the options."""

import sys

from bpkd.cli import run


def main(argv: list[str] | None = None) -> int:
    """Runs `bpkd convert` and returns its exit status."""
    return run("convert", argv)


if __name__ == "__main__":
    sys.exit(main())
