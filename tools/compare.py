#!/usr/bin/env python3
"""The same as `bpkd compare`; --help lists the options."""

import sys

from bpkd.cli import run


def main(argv: list[str] | None = None) -> int:
    """Runs `bpkd compare` and returns its exit status."""
    return run("compare", argv)


if __name__ == "__main__":
    sys.exit(main())
