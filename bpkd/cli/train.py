"""Train a network: alone, or as a student with a frozen teacher.

Examples:
  bpkd train --config-file configs/camvid/small_teacher.yaml DATASETS.ROOT data
  bpkd train --config-file projects/BPKD/configs/camvid/small__bpkd.yaml DISTILL.METHOD CWD SEED 1
  bpkd train --config-file X.yaml --resume                    go on with the run in OUTPUT_DIR
  bpkd train --config-file X.yaml --num-gpus 4                one process per GPU
  bpkd train --config-file X.yaml --eval-only MODEL.WEIGHTS output/model_final.pth

KEY VALUE pairs at the end change the config. Ctrl-C saves the run; the same command with --resume goes on.
"""

from __future__ import annotations

import logging
from typing import Any

from bpkd.errors import INTERRUPTED

from .main import run as run_command
from .parser import Parser, file_arg, whole


def parser(prog: str = "train_net.py") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "--config-file FILE", __doc__)
    out.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT_DIR, if there is one")
    out.add_argument("--eval-only", action="store_true", help="evaluate and train nothing (`bpkd eval`)")
    add_shared(out)
    return out


def add_shared(out: Parser) -> None:
    """Adds the options that training and evaluation share.

    Args:
        out: parser that receives them.
    """
    out.add_argument("--config-file", type=file_arg, default="", metavar="FILE", help="YAML config")
    out.add_argument(
        "--evaluate",
        choices=("student", "teacher"),
        default="student",
        help="network to evaluate without training (default student)",
    )
    out.add_argument("--num-gpus", type=whole(0), default=1, metavar="N", help="processes on this machine (default 1)")
    out.add_argument("--num-machines", type=whole(1), default=1, metavar="N", help="machines of the run (default 1)")
    out.add_argument("--machine-rank", type=whole(0), default=0, metavar="R", help="number of this machine, from 0")
    out.add_argument(
        "--dist-url",
        metavar="URL",
        help="where the processes of several machines meet, such as tcp://HOST:PORT (default: chosen on this machine)",
    )


def run(args: Any) -> int:
    """Trains or evaluates; returns the exit status, 130 after Ctrl-C with the run saved.

    Args:
        args: parsed arguments.
    """
    from bpkd.engine import launch

    try:
        launch.run(args)
    except KeyboardInterrupt as stop:
        again = "" if args.eval_only else " The same command with --resume goes on."
        logging.getLogger("bpkd.engine").warning("Stopped %s.%s", stop, again)
        return INTERRUPTED
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs ``bpkd train`` and returns its exit status.

    Args:
        argv: words of the command line; None: those of this process.
    """
    return run_command("train", argv)
