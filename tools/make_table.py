#!/usr/bin/env python3
"""Print the comparison table of run records: tools/make_table.py projects/BPKD/results/*.json."""

import argparse
import sys
from pathlib import Path

from bpkd.analysis.records import read_records
from bpkd.analysis.statement import report_text


def main() -> int:
    """Prints one report per file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="JSON lists of runs")
    parser.add_argument("--trimap-width", type=int, default=3, help="half-width of the trimap column")
    args = parser.parse_args()
    for path in args.files:
        try:
            text = report_text(read_records([path]), trimap_width=args.trimap_width)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"### {path.stem}\n\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
