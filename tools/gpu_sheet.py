#!/usr/bin/env python3
"""The same as `bpkd gpu-sheet`; --help lists the options."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # bpkd/ of the checkout, where it is not installed

from bpkd.cli import run  # noqa: E402
from bpkd.cli.gpu_sheet import parse  # noqa: E402, F401 - for those who read its arguments


def main(argv: list[str] | None = None) -> int:
    """Runs `bpkd gpu-sheet` and returns its exit status."""
    return run("gpu-sheet", argv)


if __name__ == "__main__":
    sys.exit(main())
