"""Evaluate a student, or the teacher of a pair, on the test sets of a config.

Examples:
  bpkd eval --config-file configs/camvid/small_student.yaml MODEL.WEIGHTS output/bpkd/model_final.pth
  bpkd eval --config-file projects/BPKD/configs/camvid/small__bpkd.yaml --evaluate teacher

Without MODEL.WEIGHTS the last checkpoint in OUTPUT_DIR is evaluated. The record goes into
OUTPUT_DIR/inference_student/run.json or inference_teacher/run.json.
"""

from __future__ import annotations

from . import train
from .parser import Parser

run = train.run


def parser(prog: str = "bpkd eval") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "--config-file FILE", __doc__)
    train.add_shared(out)
    out.set_defaults(eval_only=True, resume=False)
    return out
