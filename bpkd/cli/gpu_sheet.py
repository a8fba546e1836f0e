"""Check and measure the project on a GPU: correctness, losses, training steps, a training; in parts, nine minutes.

Examples:
  bpkd gpu-sheet OUT --data data                     everything; CamVid is in data/camvid
  bpkd gpu-sheet OUT --only losses step --resume     go on with what has not passed
  bpkd gpu-sheet OUT --resume --again profile        measure one item (or a part) again
  bpkd gpu-sheet OUT --device cpu --tiny             all of it on a CPU, in small
  bpkd gpu-sheet OUT --tables                        the records as Markdown

Needs a checkout: the measurements are in its benchmarks/. Every part writes OUT/PART.json as it goes; what the items
print is in OUT/sheet.log. docs/how_to/gpu_sheet.md explains the parts.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from bpkd.ranges import POSITIVE

from .parser import Parser, number, path_arg

PARTS = ("environment", "correct", "losses", "step", "train")
CHECKOUT = Path(__file__).resolve().parents[2]


def parser(prog: str = "bpkd gpu-sheet") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "OUT", __doc__, overrides=False, renamed={"--peers": "--peer-root"})
    out.add_argument("out", type=path_arg, metavar="OUT", help="folder of the records")
    out.add_argument(
        "--minutes",
        type=number(POSITIVE),
        metavar="M",
        help="limit of all parts together (default 9); they shrink in proportion",
    )
    out.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"parts to run: {', '.join(PARTS)}"
    )
    out.add_argument("--resume", action="store_true", help="go on in OUT: what has passed is kept")
    out.add_argument("--again", nargs="+", default=(), metavar="NAME", help="with --resume: parts, items to run again")
    out.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="device to measure (default cuda)")
    out.add_argument("--tiny", action="store_true", help="small shapes, few steps: to try the sheet, not to measure")
    out.add_argument("--data", type=path_arg, metavar="ROOT", help="folder that holds camvid/; needed by train")
    out.add_argument("--peer-root", dest="peers", type=path_arg, metavar="DIR", help="folder that mmsegmentation is in")
    out.add_argument("--work", type=path_arg, metavar="DIR", help="folder of runs and checkpoints (default OUT/work)")
    out.add_argument("--tables", action="store_true", help="print OUT's records as Markdown and measure nothing")
    return out


def parse(argv: list[str] | None = None) -> Any:
    """Returns the arguments, checked.

    Args:
        argv: words of the command line; None: those of this process.
    """
    out = parser("gpu_sheet.py")
    args = out.parse_args(argv)
    fault = mistake(args)
    if fault:
        out.error(fault)
    return args


def mistake(args: Any) -> str:
    """Returns an error message about a combination of arguments; "" if there is none.

    Args:
        args: parsed arguments.
    """
    if not (CHECKOUT / "benchmarks" / "gpu_sheet").is_dir():
        return "gpu-sheet: expected a checkout with benchmarks/, got the installed package alone."
    if args.minutes is not None and not 0 < args.minutes < 1e6:
        return f"--minutes: expected a number above 0, got {args.minutes:g}."
    if args.again and not args.resume:
        return "--again: expected --resume with it; without it everything is run."
    if args.data and not (args.data / "camvid" / "train.txt").is_file():
        return f"--data: expected a folder that holds camvid/train.txt, got {args.data}."
    if args.peers and not (args.peers / "mmseg").is_dir():
        return f"--peer-root: expected a folder that holds mmseg/, got {args.peers}."
    if "train" in args.only and not (args.data or args.tiny or args.tables):
        return "--data: expected the folder that holds camvid/, got none. Give it, or leave train out of --only."
    if not (args.resume or args.tables) and any((args.out / f"{part}.json").exists() for part in PARTS):
        return f"{args.out} already holds records. Go on with --resume, or choose another folder."
    return ""


def run(args: Any) -> int:
    """Runs the sheet; returns 0 where every item passed.

    Args:
        args: parsed arguments.
    """
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    if args.tiny:
        os.environ["OMP_NUM_THREADS"] = "1"  # items run beside each other
    if str(CHECKOUT) not in sys.path:
        sys.path.append(str(CHECKOUT))  # benchmarks/, tests/
    return int(import_module("benchmarks.gpu_sheet.cli").run(args))
