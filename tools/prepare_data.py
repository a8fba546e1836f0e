#!/usr/bin/env python3
"""Make the files that a data set's download lacks, beside it; originals are never touched.

python tools/prepare_data.py SET ROOT [--workers N]
ROOT is the folder that holds the data sets, as DATASETS.ROOT (docs/datasets.md). Stop it and call it again: it goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bpkd.data import DatasetError
from bpkd.data.prepare import PREPARATIONS, prepare


def main(argv: list[str] | None = None) -> int:
    """Prepares a data set; returns 1 where it cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(PREPARATIONS))
    parser.add_argument("root", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; 0: this one alone")
    args = parser.parse_args(argv)
    try:
        print(prepare(args.set, args.root, args.workers))
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
