#!/usr/bin/env python3
"""Watch a small network learn from a large one, on built-in scenes.

make quickstart        teacher, then student alone, with CWD and with BPKD; one seed
make quickstart-full   with KD too, three seeds

Interrupted, it goes on where it was when it is called again.
"""

import os
import sys
from pathlib import Path

from bpkd.cli import run
from bpkd.cli.parser import Parser

ROOT = Path(os.path.relpath(Path(__file__).resolve().parents[1]))
PAIR = ROOT / "projects" / "BPKD" / "configs" / "quickstart" / "pspnet__bpkd.yaml"
TEACHER = ROOT / "configs" / "quickstart" / "teacher.yaml"


def main(argv: list[str] | None = None) -> int:
    """Runs the quick start: a comparison with everything chosen."""
    parser = Parser("quickstart.py", "", __doc__, overrides=False)
    parser.add_argument("--full", action="store_true", help="KD too, and three seeds")
    parser.add_argument("--output", default="output/quickstart", metavar="DIR", help="folder of runs and report")
    args = parser.parse_args(argv)
    methods = ["none", "KD", "CWD", "BPKD"] if args.full else ["none", "CWD", "BPKD"]
    arguments = ["--config-file", str(PAIR), "--resume", "--output", args.output]
    arguments += ["--report", "report-full" if args.full else "report", "--seeds", "3" if args.full else "1"]
    # Its own teacher, whatever the config of the pair names.
    changes = ["TEACHER.CONFIG_FILE", str(TEACHER), "TEACHER.WEIGHTS", ""]
    return run("compare", [*arguments, "--methods", *methods, *changes])


if __name__ == "__main__":
    sys.exit(main())
