#!/usr/bin/env python3
"""The same as `bpkd export`; --help lists the options."""

import sys

from bpkd.cli import run


def main(argv: list[str] | None = None) -> int:
    """Runs `bpkd export` and returns its exit status."""
    return run("export", argv)


if __name__ == "__main__":
    sys.exit(main())
