#!/usr/bin/env python3
"""The same as `bpkd check-data`; --help lists the options."""

import sys

from bpkd.cli import run


def main(argv: list[str] | None = None) -> int:
    """Runs `bpkd check-data` and returns its exit status."""
    return run("check-data", argv)


if __name__ == "__main__":
    sys.exit(main())
