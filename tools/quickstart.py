#!/usr/bin/env python3
"""Watch a small network learn from a large one: train both on built-in scenes, compare, draw.

make quickstart        teacher, student alone, CWD, BPKD; one seed
make quickstart-full   every method, three seeds

Interrupted, it goes on where it was when it is called again.
"""

import argparse
import sys
from pathlib import Path

from bpkd.distillers import DISTILLERS
from bpkd.engine.compare import comparison_jobs
from bpkd.engine.matrix import JobFailedError, run_jobs
from bpkd.engine.summary import write_report

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "quickstart"


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def main() -> int:
    """Runs the quick start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all methods, three seeds")
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"), help="folder of runs and report")
    args = parser.parse_args()
    methods = ["none", *sorted(DISTILLERS, reverse=True)] if args.full else ["none", "CWD", "BPKD"]
    jobs = comparison_jobs(
        str(CONFIGS / "teacher.yaml"),
        str(CONFIGS / "student.yaml"),
        args.output,
        methods=methods,
        seeds=range(3) if args.full else range(1),
    )
    try:
        run_jobs(jobs, say=say)
    except JobFailedError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    report = args.output / ("report-full" if args.full else "report")
    say("\n" + write_report(jobs, report, trimap_width=3, images=(1, 2, 5), say=say))
    say(f"\nreport: {report}/table.md, table.csv, curves.png, trimap.png, panels.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
