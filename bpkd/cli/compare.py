r"""Train a teacher and students by several methods from the same seeds, and report.

Examples:
  bpkd compare --config-file projects/BPKD/configs/camvid/small__bpkd.yaml \
      --methods none KD SKDS IFVD CIRKD CWD BPKD --seeds 3 --equal-time --output output/camvid-compare
  bpkd compare --config-file PAIR.yaml --methods none BPKD --seeds 1 SOLVER.MAX_ITER 500

The config is a teacher-student pair; the methods differ in DISTILL.METHOD alone ("none": the student alone), and each
one's settings are its node of DISTILL. The teacher is loaded where TEACHER.WEIGHTS names a file, else trained once.
KEY VALUE pairs at the end change the config of every run. Interrupted, the same command with --resume goes on; complete
runs are not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bpkd.errors import INTERRUPTED
from bpkd.ranges import NOT_NEGATIVE

from .parser import Parser, file_arg, number, path_arg, say, stop_on_sigterm, whole


def parser(prog: str = "bpkd compare") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    renamed = {"--trimap-width": "--widths", "--images": "--positions"}
    out = Parser(prog, "--config-file PAIR --methods METHOD [METHOD ...]", __doc__, renamed=renamed)
    out.add_argument(
        "--config-file", type=file_arg, required=True, metavar="PAIR", help="config of a teacher-student pair"
    )
    out.add_argument("--methods", nargs="+", required=True, metavar="METHOD", help="none and names of distillers")
    out.add_argument("--seeds", type=whole(1), default=3, metavar="N", help="number of seeds: 0 .. N-1 (default 3)")
    out.add_argument(
        "--output", type=path_arg, metavar="DIR", help="folder of runs (default output/compare/<name of PAIR>)"
    )
    out.add_argument("--resume", action="store_true", help="keep complete runs of the folder, go on with the others")
    out.add_argument(
        "--equal-time",
        action="store_true",
        help="train the student alone and KD also for the iterations that BPKD's time buys (with --workers 1 no run "
        "slows another down)",
    )
    out.add_argument("--num-gpus", type=whole(1), default=1, metavar="N", help="processes of one run (default 1)")
    out.add_argument("--workers", type=whole(0), default=0, metavar="N", help="runs at a time (default: what fits)")
    out.add_argument("--report", default="report", metavar="NAME", help="folder of the report in DIR (default report)")
    add_figures(out)
    return out


def add_figures(out: Parser) -> None:
    """Adds the options of the report's figures.

    Args:
        out: parser that receives them.
    """
    out.add_argument("--widths", type=whole(1), default=3, metavar="W", help="half-width of the trimap (default 3)")
    out.add_argument(
        "--positions",
        type=whole(0),
        nargs="+",
        metavar="N",
        help="positions in the test set of the images to draw (default 1 2 5)",
    )
    out.add_argument(
        "--margin",
        type=number(NOT_NEGATIVE),
        default=0.5,
        metavar="M",
        help='gains below it count as "no gain" (default 0.5)',
    )


def choose_positions(positions: list[int] | None, widths: list[int], width: int, test_set: str) -> list[int]:
    """Returns the positions of the images to draw; checks what would fail after training.

    Args:
        positions: positions in the test set; None: 1, 2 and 5 where there are so many.
        widths: TEST.TRIMAP_WIDTHS.
        width: half-width of the report's trimap figures.
        test_set: name of the data set.

    Raises:
        ValueError: a position lies outside the set, or the width is not measured.
    """
    from detectron2.data import DatasetCatalog

    if width not in widths:
        raise ValueError(f"--widths: expected one of TEST.TRIMAP_WIDTHS {widths}, got {width}.")
    count = len(DatasetCatalog.get(test_set))
    chosen = positions or [i for i in (1, 2, 5) if i < count] or [0]
    wrong = [str(i) for i in chosen if i >= count]
    if wrong:
        raise ValueError(f"--positions: expected positions 0 .. {count - 1} of {test_set}, got {', '.join(wrong)}.")
    return chosen


def run(args: Any) -> int:
    """Runs the comparison and writes its report.

    Args:
        args: parsed arguments.
    """
    from bpkd.engine.configure import load_config
    from bpkd.experiments.compare import comparison_jobs, start_order
    from bpkd.experiments.jobs import run_jobs
    from bpkd.experiments.report import write_report
    from bpkd.experiments.resources import divide, visible_gpus
    from bpkd.experiments.reuse import check_runs

    output = args.output or Path("output/compare") / Path(args.config_file).stem
    many = {"methods": args.methods, "seeds": range(args.seeds), "equal_time": args.equal_time}
    if len(set(args.methods)) != len(args.methods):
        raise ValueError(f"--methods: expected each method once, got {' '.join(args.methods)}.")
    cfg = load_config(args.config_file, args.opts)
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST: expected a data set to compare on, got none.")
    positions = choose_positions(args.positions, list(cfg.TEST.TRIMAP_WIDTHS), args.widths, cfg.DATASETS.TEST[0])
    jobs = comparison_jobs(args.config_file, output, opts=args.opts, **many)
    gpus = visible_gpus() if cfg.MODEL.DEVICE == "cuda" else []
    machine = divide(gpus=gpus, per_run=args.num_gpus, workers=args.workers)
    check_runs(jobs, resume=args.resume)
    stop_on_sigterm()
    try:
        say(f"teacher: {jobs[0].evaluates or 'trained here'} ({jobs[0].config_file})")
        if args.equal_time and machine.runs > 1:
            say(f"--equal-time: {machine.runs} runs at a time slow each other down; --workers 1 gives truer iterations")
        run_jobs(start_order(jobs), progress=say, machine=machine)
    except KeyboardInterrupt:
        again = "" if args.resume else " with --resume"
        print(f"stopped; the same command{again} goes on from here", file=sys.stderr)
        return INTERRUPTED
    report = output / args.report
    drawn = {"trimap_width": args.widths, "images": positions}
    say("\n" + write_report(jobs, report, margin=args.margin, progress=say, **drawn))
    say(f"\nreport: {report}/report.html, table.md, results.json; tables as CSV and figures as PNG beside them")
    return 0
