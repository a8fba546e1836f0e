"""Runs the sheet or prints its tables, as its command line says."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from importlib import import_module

# Before torch is imported: it looks for a GPU without starting CUDA, which a forked process could not use any more.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

from .items import Item, Part, Settings  # noqa: E402
from .records import RecordError  # noqa: E402
from .report import report  # noqa: E402
from .runner import Sheet  # noqa: E402

PARTS = ("environment", "correct", "losses", "step", "train")
MINUTES = 9.0
TINY_MINUTES = 90.0  # ten times the time on a GPU, so that a run on a CPU reaches its end


def load(name: str) -> Part:
    """Imports a part; one that cannot be imported fails when it is run, and the others are still run."""
    try:
        part: Part = import_module(f"{__package__}.{name}").PART
        return part
    except Exception as error:
        reason = error

    def items(settings: Settings) -> list[Item]:
        raise reason

    return Part(name, name.capitalize(), 10, items)


def run(args: argparse.Namespace) -> int:
    """Runs the parts, or prints their tables; returns the exit status, 2 where OUT or the device cannot be used."""
    try:
        return _run(args)
    except (RecordError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    out, parts = args.out.resolve(), [load(name) for name in PARTS if name in args.only]
    if args.tables:
        print(report(out, parts), end="")
        return 0
    new = not out.exists()
    data, peers = (path.resolve() if path else None for path in (args.data, args.peers))
    settings = Settings(args.device, args.tiny, out, (args.work or out / "work").resolve(), data, peers)
    seconds = 60 * (args.minutes or settings.pick(MINUTES, TINY_MINUTES))
    sheet = Sheet(
        settings,
        seconds=seconds,
        resume=args.resume,
        progress=lambda line: print(line, flush=True),
        again=args.again,
    )
    try:
        status = sheet.run(parts)
    except RecordError:
        if new:
            shutil.rmtree(out, ignore_errors=True)  # nothing was measured
        raise
    except KeyboardInterrupt as stop:
        print(f"stopped ({stop}); the same command with --resume goes on", file=sys.stderr)
        status = 130
    every = [load(name) for name in PARTS]
    if any((out / f"{part.name}.json").is_file() for part in every):
        (out / "sheet.md").write_text(report(out, every))
    return status
