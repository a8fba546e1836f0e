"""Search distillers' settings on data that no result is measured on, with the same budget for every method.

Examples:
  bpkd search projects/BPKD/search/camvid_small.yaml --output output/search DATASETS.ROOT data
  bpkd search mine.yaml --output output/search --finalists 3 --resume

Every candidate runs once, each method's best ones again with a second seed; the best mean is chosen. KEY VALUE pairs at
the end change the config of every run. Interrupted, the same command with --resume goes on. Writes results.json and
table.md.
"""

from __future__ import annotations

import sys
from typing import Any

from bpkd.errors import INTERRUPTED
from bpkd.files import write_json, write_text

from .parser import Parser, path_arg, say, stop_on_sigterm, whole


def parser(prog: str = "bpkd search") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "SEARCH --output DIR", __doc__)
    out.add_argument(
        "search", type=path_arg, metavar="SEARCH", help="YAML: config (a pair), opts, trials (method: list of settings)"
    )
    out.add_argument("--output", type=path_arg, required=True, metavar="DIR", help="folder of the runs and the result")
    out.add_argument("--resume", action="store_true", help="keep complete runs of the folder, go on with the others")
    out.add_argument(
        "--finalists", type=whole(0), default=2, metavar="N", help="candidates per method that run twice (default 2)"
    )
    out.add_argument("--workers", type=whole(0), default=0, metavar="N", help="runs at a time (default: what fits)")
    return out


def run(args: Any) -> int:
    """Runs the search.

    Args:
        args: parsed arguments.
    """
    from bpkd.experiments.search import main_effects, run_search, search_table

    stop_on_sigterm()
    try:
        many = {"finalists": args.finalists, "opts": args.opts, "workers": args.workers, "resume": args.resume}
        rows = run_search(args.search, args.output, progress=say, **many)
    except KeyboardInterrupt:
        print("stopped; the same command with --resume goes on from here", file=sys.stderr)
        return INTERRUPTED
    write_json(args.output / "results.json", rows)
    table = "\n\n".join(part for part in (search_table(rows), main_effects(rows)) if part)
    write_text(args.output / "table.md", table + "\n")
    say(table)
    return 0
