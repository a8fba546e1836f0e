#!/usr/bin/env python3
r"""Train a teacher and students by several methods from the same seeds, and report.

    tools/compare.py --config-file projects/BPKD/configs/camvid/small__bpkd.yaml \
        --methods none KD SKDS IFVD CIRKD CWD BPKD --seeds 3 --equal-time --output output/camvid-compare

The config is a teacher-student pair; the methods differ in DISTILL.METHOD alone ("none": the student alone), and each
one's settings are its node of DISTILL. The teacher is loaded where TEACHER.WEIGHTS names a file, else trained once.
Interrupted, the same command with --resume goes on; complete runs are not repeated.
"""

import argparse
import signal
import sys
from pathlib import Path

from detectron2.data import DatasetCatalog

from bpkd.engine.launch import load_config
from bpkd.experiments.compare import comparison_jobs, start_order
from bpkd.experiments.jobs import JobFailedError, run_jobs
from bpkd.experiments.report import write_report
from bpkd.experiments.resources import divide, visible_gpus
from bpkd.experiments.reuse import check_runs


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--config-file", required=True, metavar="PAIR", help="config of a teacher-student pair")
    out.add_argument("--methods", nargs="+", required=True, help="none (the student alone) and distillers")
    out.add_argument("--seeds", type=int, default=3, help="number of seeds: 0 .. N-1 (default 3)")
    out.add_argument("--output", type=Path, help="folder of the runs (default output/compare/<name of PAIR>)")
    out.add_argument("--resume", action="store_true", help="keep complete runs of the folder, go on with the others")
    out.add_argument(
        "--equal-time",
        action="store_true",
        help="train the student alone and KD also for the iterations that BPKD's time buys (with --workers 1 no run "
        "slows another down)",
    )
    out.add_argument("--num-gpus", type=int, default=1, help="processes of one run, a GPU each where there are GPUs")
    out.add_argument("--workers", type=int, default=0, help="runs at a time (default: as many as GPUs or cores allow)")
    out.add_argument("--report", default="report", help="name of the report's folder in it (default report)")
    out.add_argument("--trimap-width", type=int, default=3, help="half-width of the trimap figures (default 3)")
    out.add_argument("--images", type=int, nargs="+", help="positions of the test images to draw (default 1 2 5)")
    out.add_argument("--margin", type=float, default=0.5, help='the gain below which it is "no gain" (default 0.5)')
    out.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config changes for every run")
    return out


def check_arguments(args: argparse.Namespace, widths: list[int], test_set: str) -> None:
    """Chooses images where none are asked for; raises ValueError for what would fail or say nothing after training."""
    if args.seeds < 1:
        raise ValueError(f"--seeds: expected at least 1, got {args.seeds}.")
    if args.trimap_width not in widths:
        raise ValueError(f"--trimap-width: expected one of TEST.TRIMAP_WIDTHS {widths}, got {args.trimap_width}.")
    count = len(DatasetCatalog.get(test_set))
    if args.images is None:
        args.images = [i for i in (1, 2, 5) if i < count] or [0]
    wrong = [str(i) for i in args.images if not 0 <= i < count]
    if wrong:
        raise ValueError(f"--images: expected positions 0 .. {count - 1} of {test_set}, got {', '.join(wrong)}.")


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison."""
    args = parser().parse_args(argv)
    output = args.output or Path("output/compare") / Path(args.config_file).stem
    many = {"methods": args.methods, "seeds": range(args.seeds), "equal_time": args.equal_time}
    try:
        cfg = load_config(args.config_file, args.opts)
        check_arguments(args, list(cfg.TEST.TRIMAP_WIDTHS), cfg.DATASETS.TEST[0])
        jobs = comparison_jobs(args.config_file, output, opts=args.opts, **many)
        gpus = visible_gpus() if cfg.MODEL.DEVICE == "cuda" else []
        machine = divide(gpus=gpus, per_run=args.num_gpus, workers=args.workers)
        check_runs(jobs, resume=args.resume)
    except (ValueError, FileNotFoundError) as error:
        say(f"error: {error}")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop also saves the runs under way
    try:
        say(f"teacher: {jobs[0].evaluates or 'trained here'} ({jobs[0].config_file})")
        if args.equal_time and machine.runs > 1:
            say(f"--equal-time: {machine.runs} runs at a time slow each other down; --workers 1 gives truer iterations")
        run_jobs(start_order(jobs), say=say, machine=machine)
    except JobFailedError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"stopped; the same command{'' if args.resume else ' with --resume'} goes on from here")
        return 130
    report, drawn = output / args.report, {"trimap_width": args.trimap_width, "images": args.images}
    try:
        say("\n" + write_report(jobs, report, margin=args.margin, say=say, **drawn))
    except ValueError as error:
        say(f"error: {error}")
        return 1
    say(f"\nreport: {report}/report.html, table.md, results.json; tables as CSV and figures as PNG beside them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
