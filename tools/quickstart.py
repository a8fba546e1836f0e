#!/usr/bin/env python3
"""Watch a small network learn from a large one, on built-in scenes.

make quickstart        teacher, then student alone, with CWD and with BPKD; one seed
make quickstart-full   with KD too, three seeds

Interrupted, it goes on where it was when it is called again.
"""

import argparse
import os
import sys
from pathlib import Path

import compare

ROOT = Path(os.path.relpath(Path(__file__).resolve().parents[1]))
PAIR = ROOT / "projects" / "BPKD" / "configs" / "quickstart" / "pspnet__bpkd.yaml"
TEACHER = ROOT / "configs" / "quickstart" / "teacher.yaml"


def main() -> int:
    """Runs the quick start: a comparison with everything chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="KD too, and three seeds")
    parser.add_argument("--output", default="output/quickstart", help="folder of runs and report")
    args = parser.parse_args()
    methods = ["none", "KD", "CWD", "BPKD"] if args.full else ["none", "CWD", "BPKD"]
    arguments = ["--config-file", str(PAIR), "--resume", "--output", args.output]
    arguments += ["--report", "report-full" if args.full else "report"]
    arguments += [
        "--opts",
        "TEACHER.CONFIG_FILE",
        str(TEACHER),
        "TEACHER.WEIGHTS",
        "",
    ]  # its own teacher, wherever from
    return compare.main([*arguments, "--methods", *methods, "--seeds", "3" if args.full else "1"])


if __name__ == "__main__":
    sys.exit(main())
