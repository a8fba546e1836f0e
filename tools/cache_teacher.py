#!/usr/bin/env python3
"""Record a teacher's logits along a training's samples, to train from them without the teacher (TEACHER.CACHE).

    pair=projects/BPKD/configs/camvid/small__bpkd.yaml
    tools/cache_teacher.py --config-file $pair recorded DATASETS.ROOT data
    tools/train_net.py --config-file $pair DATASETS.ROOT data TEACHER.CACHE recorded

Called again it goes on with an interrupted recording, or lengthens it. KEY VALUE pairs at the end change the config,
the same that the training is given (batch size, iterations and the number of processes may differ).
"""

from __future__ import annotations

import argparse
import sys
import time

from detectron2.utils.logger import setup_logger

from bpkd.engine import load_config
from bpkd.engine.cache_teacher import record_teacher
from bpkd.modeling.teachers.cached import FORMATS


def main(argv: list[str] | None = None) -> int:
    """Records; returns 1 after one line that says why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="of the training")
    parser.add_argument("--format", default="uint8", choices=FORMATS, help="1 or 2 bytes per logit (docs/methods.md)")
    parser.add_argument("--samples", type=int, default=0, help="at least so many; 0: all that the training looks at")
    parser.add_argument("output", help="folder")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config changes")
    args = parser.parse_args(argv)
    if args.samples < 0:
        parser.error(f"--samples: expected a number of samples, or 0, got {args.samples}")
    setup_logger(name="bpkd", abbrev_name="bpkd")
    start = time.perf_counter()
    try:
        cfg = load_config(args.config_file, args.opts)
        folder = record_teacher(cfg, args.output, kind=args.format, samples=args.samples)
    except (ValueError, OSError) as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    count, size, seconds = folder.index["count"], folder.row_bytes, time.perf_counter() - start
    print(f"{args.output}: {count} samples of {size} bytes, {count * size / 2**20:.1f} MiB, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
