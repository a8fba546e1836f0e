"""Remake a comparison's report from its runs, or print the tables of result files.

Examples:
  bpkd report output/camvid-compare DATASETS.ROOT data        the whole report: page, tables, figures, pictures
  bpkd report projects/BPKD/results/camvid_compare.json       tables of records, as Markdown

A folder is that of `bpkd compare --output`; its complete runs are reported. Predictions are made anew for the pictures:
data set and weights have to be there, KEY VALUE pairs at the end say where they are now. Files are JSON lists of runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bpkd.text import markdown_cell

from . import compare
from .parser import Parser, path_arg, say


def parser(prog: str = "bpkd report") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "PATH [PATH ...]", __doc__, renamed={"--trimap-width": "--widths"})
    out.add_argument("paths", nargs="+", type=path_arg, metavar="PATH", help="a comparison's folder, or result files")
    out.add_argument("--report", default="report", metavar="NAME", help="folder of the report (default report)")
    compare.add_figures(out)
    return out


def run(args: Any) -> int:
    """Remakes a report, or prints tables.

    Args:
        args: parsed arguments.
    """
    folders = [path for path in args.paths if path.is_dir()]
    if folders and len(args.paths) > 1:
        raise ValueError("PATH: expected one comparison's folder, or result files.")
    return remake(args) if folders else print_tables(args)


def print_tables(args: Any) -> int:
    """Prints one report per file, and in it one table per data set.

    Args:
        args: parsed arguments.
    """
    from bpkd.analysis.identity import one_set_each, set_title
    from bpkd.analysis.records import read_records
    from bpkd.analysis.statement import report_text

    if args.opts:
        raise ValueError("KEY VALUE: expected a comparison's folder, whose runs they change, got result files.")
    for path in args.paths:
        parts = one_set_each(read_records([path]))
        print(f"### {markdown_cell(path.stem)}\n")
        for i, records in enumerate(parts):
            if len(parts) > 1:
                print(f"#### {markdown_cell(set_title(records, parts[0] if i else []))}\n")
            print(f"{report_text(records, trimap_width=args.widths, margin=args.margin)}\n")
    return 0


def remake(args: Any) -> int:
    """Writes the report of a comparison's folder again.

    Args:
        args: parsed arguments.
    """
    from bpkd.engine.configure import load_config
    from bpkd.experiments.complete import complete_jobs
    from bpkd.experiments.report import write_report

    (folder,) = args.paths
    with tempfile.TemporaryDirectory(prefix="bpkd-") as configs:
        jobs = complete_jobs(folder, Path(configs), opts=args.opts, order=folder / args.report / "results.json")
        cfg = load_config(jobs[0].config_file, jobs[0].opts)
        widths = list(cfg.TEST.TRIMAP_WIDTHS)
        positions = compare.choose_positions(args.positions, widths, args.widths, cfg.DATASETS.TEST[0])
        report = folder / args.report
        drawn = {"trimap_width": args.widths, "images": positions}
        say("\n" + write_report(jobs, report, margin=args.margin, progress=say, **drawn))
    say(f"\nreport: {report}/report.html, table.md, results.json; tables as CSV and figures as PNG beside them")
    return 0
