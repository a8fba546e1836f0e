"""The sheet from its command line's arguments."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

# Before torch is imported: it looks for a GPU without starting CUDA, which a forked process could not use any more.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
TOOLS = Path(__file__).resolve().parents[2] / "tools"
if str(TOOLS) not in sys.path:
    sys.path.append(str(TOOLS))  # the benchmarks' functions

from .items import Item, Part, Settings  # noqa: E402
from .report import report  # noqa: E402
from .runner import Sheet  # noqa: E402

PARTS = ("environment", "correct", "losses", "step", "train")
# Times what the parts have: a walk on a CPU is to end, not to be cut.
TINY_MINUTES = 90.0


def load(name: str) -> Part:
    """Imports a part; one that cannot be imported fails when it is its turn, and the others run."""
    try:
        part: Part = import_module(f"{__package__}.{name}").PART
        return part
    except Exception as error:
        reason = error

    def items(settings: Settings) -> list[Item]:
        raise reason

    return Part(name, name.capitalize(), 10, items)


def run(args: argparse.Namespace) -> int:
    """Runs the parts, or prints their tables; returns the exit status."""
    out, parts = args.out.resolve(), [load(name) for name in PARTS]
    if args.tables:
        try:
            print(report(out, parts), end="")
        except FileNotFoundError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    data, peers = (path.resolve() if path else None for path in (args.data, args.peers))
    settings = Settings(args.device, args.tiny, out, (args.work or out / "work").resolve(), data, peers)
    seconds = 60 * (TINY_MINUTES if args.tiny and args.minutes == 9.0 else args.minutes)
    sheet = Sheet(settings, seconds=seconds, resume=args.resume, say=lambda line: print(line, flush=True))
    try:
        status = sheet.run([part for part in parts if part.name in args.only])
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"stopped ({stop or 'Ctrl-C'}); the same command with --resume goes on", file=sys.stderr)
        status = 130
    (out / "sheet.md").write_text(report(out, parts))
    return status
