"""Prove on a GPU what only a GPU can show: correctness, losses, training steps, a training; in parts, nine minutes.

    python tools/gpu_sheet.py OUT --data data                     # everything; CamVid is in data/camvid
    python tools/gpu_sheet.py OUT --only losses step --resume     # goes on with what has not passed
    python tools/gpu_sheet.py OUT --resume --again profile        # measures one item (or a part) again
    python tools/gpu_sheet.py OUT --device cpu --tiny             # walks through all of it on a CPU, in small
    python tools/gpu_sheet.py OUT --tables                        # the records as Markdown

Every part writes OUT/PART.json as it goes; what the items print is in OUT/sheet.log. docs/gpu.md explains the parts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, tests/: the sheet needs a checkout

from benchmarks.gpu_sheet.arguments import parse  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Runs the sheet; returns 0 where every item passed."""
    args = parse(argv, __doc__)
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
