"""Record a teacher's logits along a training's samples, to train from them without the teacher (TEACHER.CACHE).

Examples:
  bpkd cache-teacher FOLDER --config-file projects/BPKD/configs/camvid/small__bpkd.yaml DATASETS.ROOT data
  bpkd train --config-file projects/BPKD/configs/camvid/small__bpkd.yaml DATASETS.ROOT data TEACHER.CACHE FOLDER

The same command goes on with an interrupted recording, or lengthens it. KEY VALUE pairs at the end change the config;
they are those that the training is given (batch size, iterations and number of processes may differ).
"""

from __future__ import annotations

import time
from typing import Any

from .parser import Parser, file_arg, whole

FORMATS = ("bf16", "uint8")


def parser(prog: str = "bpkd cache-teacher") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "FOLDER --config-file FILE", __doc__)
    out.add_argument(
        "output", type=file_arg, metavar="FOLDER", help="folder of the recording; made if it does not exist"
    )
    out.add_argument("--config-file", type=file_arg, required=True, metavar="FILE", help="config of the training")
    out.add_argument(
        "--format", default="uint8", choices=FORMATS, help="2 or 1 bytes per logit (docs/how_to/teachers.md)"
    )
    out.add_argument(
        "--samples", type=whole(0), default=0, metavar="N", help="least number; 0: all that the training looks at"
    )
    return out


def run(args: Any) -> int:
    """Records.

    Args:
        args: parsed arguments.
    """
    from detectron2.utils.logger import setup_logger

    from bpkd.engine.cache_teacher import record_teacher
    from bpkd.engine.configure import load_config

    setup_logger(name="bpkd", abbrev_name="bpkd")
    start = time.perf_counter()
    cfg = load_config(args.config_file, args.opts)
    folder = record_teacher(cfg, args.output, kind=args.format, samples=args.samples)
    count, size, seconds = folder.index["count"], folder.row_bytes, time.perf_counter() - start
    print(f"{args.output}: {count} samples of {size} bytes, {count * size / 2**20:.1f} MiB, {seconds:.0f} s")
    return 0
