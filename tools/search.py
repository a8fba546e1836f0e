#!/usr/bin/env python3
r"""Search distillers' settings on data that no result is measured on, with the same budget for every method.

    tools/search.py projects/BPKD/search/camvid_small.yaml --output output/search --opts DATASETS.ROOT data

Every candidate runs once, each method's best ones again with a second seed; the best mean is chosen. Interrupted, the
same command with --resume goes on. Writes results.json and table.md.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

from bpkd.experiments.jobs import JobFailedError
from bpkd.experiments.search import main_effects, run_search, search_table


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", type=Path, help="YAML: config (a pair), opts, trials (method: list of settings)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and the result")
    parser.add_argument("--resume", action="store_true", help="keep complete runs of the folder, go on with the others")
    parser.add_argument("--finalists", type=int, default=2, help="candidates per method that get a second seed")
    parser.add_argument("--workers", type=int, default=0, help="runs at a time; 0: one per GPU or core")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config changes for every run")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop also saves the runs under way
    try:
        many = {"finalists": args.finalists, "opts": args.opts, "workers": args.workers, "resume": args.resume}
        rows = run_search(args.search, args.output, say=say, **many)
    except (JobFailedError, FileNotFoundError, ValueError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; the same command with --resume goes on from here")
        return 130
    (args.output / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    table = "\n\n".join(part for part in (search_table(rows), main_effects(rows)) if part)
    (args.output / "table.md").write_text(table + "\n")
    say(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
