#!/usr/bin/env python3
r"""Train a teacher and students by several methods from the same seeds, and report.

    tools/compare.py --teacher configs/camvid/small_teacher.yaml --student configs/camvid/small_student.yaml \
        --methods none KD CWD BPKD --seeds 3 --output output/camvid-small

Interrupted, it goes on where it was when it is called again; complete runs are not repeated.
"""

import argparse
import signal
import sys
from pathlib import Path

from bpkd.engine.compare import comparison_jobs
from bpkd.engine.matrix import JobFailedError, run_jobs
from bpkd.engine.summary import write_report


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="plain config of the teacher")
    parser.add_argument("--student", required=True, help="plain config of the student")
    parser.add_argument("--methods", nargs="+", required=True, help="none (the student alone) and distillers")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds: 0 .. N-1")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--report", default="report", help="name of the report's folder in it")
    parser.add_argument("--trimap-width", type=int, default=3, help="half-width of the table's trimap column")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 5], help="test images to draw")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config changes for every run")
    args = parser.parse_args(argv)
    seeds = range(args.seeds)
    jobs = comparison_jobs(args.teacher, args.student, args.output, methods=args.methods, seeds=seeds, opts=args.opts)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop also saves the runs under way
    try:
        run_jobs(jobs, say=say)
    except JobFailedError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    report = args.output / args.report
    say("\n" + write_report(jobs, report, trimap_width=args.trimap_width, images=args.images, say=say))
    say(f"\nreport: {report}/table.md, table.csv, results.json, curves.png, trimap.png, panels.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
