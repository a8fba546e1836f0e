#!/usr/bin/env python3
"""The same as `bpkd visualize`; --help lists the options."""

import sys

from bpkd.cli import run


def main(argv: list[str] | None = None) -> int:
    """Runs `bpkd visualize` and returns its exit status."""
    return run("visualize", argv)


if __name__ == "__main__":
    sys.exit(main())
