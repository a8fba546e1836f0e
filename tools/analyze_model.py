#!/usr/bin/env python
"""Prints parameters and FLOPs of the networks that config files describe, by the convention of the paper's table."""

from __future__ import annotations

import argparse
import json

from bpkd.analysis.complexity import count
from bpkd.config import read_config
from bpkd.modeling import build_student


def main(argv: list[str] | None = None) -> int:
    """Counts each config's network (the student, where the config distils) and prints one row per config."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", nargs="+", required=True, metavar="YAML")
    parser.add_argument("--size", nargs=2, type=int, default=[512, 512], metavar=("H", "W"))
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config changes for all")
    args = parser.parse_args(argv)
    rows = [{"config": path, **analyse(path, args.opts, args.size)} for path in args.config_file]
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{'config':<50} {'params M':>10} {'FLOPs G':>10}   at {args.size[0]}x{args.size[1]}")
    for row in rows:
        print(f"{row['config']:<50} {row['params'] / 1e6:>10.2f} {row['flops'] / 1e9:>10.2f}")
    return 0


def analyse(path: str, opts: list[str], size: list[int]) -> dict:
    """Returns the counts of one config's network on CPU."""
    cfg = read_config(path, [*opts, "MODEL.DEVICE", "cpu"])
    return count(build_student(cfg), (size[0], size[1])).row()


if __name__ == "__main__":
    raise SystemExit(main())
