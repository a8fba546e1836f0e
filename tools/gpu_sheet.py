"""Prove on a GPU what only a GPU can show: correctness, losses, training steps, a training; in parts, nine minutes.

    python tools/gpu_sheet.py OUT --data data                     # everything; CamVid is in data/camvid
    python tools/gpu_sheet.py OUT --only losses step --resume     # goes on with what has not passed
    python tools/gpu_sheet.py OUT --resume --again profile        # measures one item (or a part) again
    python tools/gpu_sheet.py OUT --device cpu --tiny             # walks through all of it on a CPU, in small
    python tools/gpu_sheet.py OUT --tables                        # the records as Markdown

Every part writes OUT/PART.json as it goes; what the items print is in OUT/sheet.log. docs/gpu.md explains the parts.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, tests/: the sheet needs a checkout

PARTS = ("environment", "correct", "losses", "step", "train")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads and checks the arguments."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the records")
    parser.add_argument("--minutes", type=float, help="in which it ends (default 9); parts shrink in proportion")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--resume", action="store_true", help="go on in OUT: what has passed is kept")
    parser.add_argument(
        "--again", nargs="+", default=(), metavar="NAME", help="with --resume: parts, items to run again"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, few steps: to try the sheet, not to measure")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="folder that holds camvid/; needed by train")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where mmsegmentation was installed, for its rows")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for runs and checkpoints (default: OUT/work)")
    parser.add_argument("--tables", action="store_true", help="print OUT's records as Markdown and measure nothing")
    args = parser.parse_args(argv)
    if args.minutes is not None and not 0 < args.minutes < 1e6:
        parser.error(f"--minutes: expected a number above 0, got {args.minutes:g}.")
    if args.again and not args.resume:
        parser.error("--again: expected --resume with it; without it everything is run.")
    if args.data and not (args.data / "camvid" / "train.txt").is_file():
        parser.error(f"--data: expected a folder that holds camvid/train.txt, got {args.data}.")
    if args.peers and not (args.peers / "mmseg").is_dir():
        parser.error(f"--peers: expected a folder that holds mmseg/, got {args.peers}.")
    if "train" in args.only and not (args.data or args.tiny or args.tables):
        parser.error("--data: expected the folder that holds camvid/, got none. Give it, or leave train out of --only.")
    if not (args.resume or args.tables) and any((args.out / f"{part}.json").exists() for part in PARTS):
        parser.error(f"{args.out} already holds records. Go on with --resume, or choose another folder.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the sheet; returns 0 where every item passed."""
    args = parse(argv)
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    if args.tiny:
        os.environ["OMP_NUM_THREADS"] = "1"  # items run beside each other
    try:
        from benchmarks.gpu_sheet.cli import run

        return run(args)
    except (ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
