"""Make the files that a data set's download lacks, beside it; originals are never touched.

Examples:
  bpkd prepare-data pascal_context /data
  bpkd prepare-data cityscapes /data --workers 8

ROOT is the folder that holds the data sets, as DATASETS.ROOT (docs/reference/datasets.md). Interrupted, the same
command goes on.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from bpkd.errors import INTERRUPTED

from .parser import Parser, path_arg, whole

SETS = ("ade20k", "cityscapes", "coco", "pascal_context")


def parser(prog: str = "bpkd prepare-data") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "SET ROOT", __doc__, overrides=False)
    out.add_argument("set", choices=SETS, metavar="SET", help=", ".join(SETS))
    out.add_argument("root", type=path_arg, metavar="ROOT", help="folder that holds the data sets")
    out.add_argument(
        "--workers",
        type=whole(0),
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes; 0: this one alone (default: one per core)",
    )
    return out


def run(args: Any) -> int:
    """Prepares a data set.

    Args:
        args: parsed arguments.
    """
    from bpkd.data.prepare import prepare

    try:
        print(prepare(args.set, args.root, args.workers))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 0
