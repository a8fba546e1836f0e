"""Command line of the GPU sheet; imports no torch, so that the environment can be set before it is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

PARTS = ("environment", "correct", "losses", "step", "train")


def parse(argv: list[str] | None, text: str) -> argparse.Namespace:
    """Reads and checks the arguments; ``text`` describes the command."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=text, formatter_class=formatter)
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
