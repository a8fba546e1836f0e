#!/usr/bin/env python3
"""The same as `bpkd metrics`; --help lists the options."""

import sys

from bpkd.cli import run


def main(argv: list[str] | None = None) -> int:
    """Runs `bpkd metrics` and returns its exit status."""
    return run("metrics", argv)


if __name__ == "__main__":
    sys.exit(main())
