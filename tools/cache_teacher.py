#!/usr/bin/env python3
"""The same as `bpkd cache-teacher`; --help lists the options."""

import sys

from bpkd.cli import run


def main(argv: list[str] | None = None) -> int:
    """Runs `bpkd cache-teacher` and returns its exit status."""
    return run("cache-teacher", argv)


if __name__ == "__main__":
    sys.exit(main())
