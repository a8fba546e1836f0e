"""``python -m bpkd.engine``: the same as ``bpkd train``."""

import importlib
import sys

if __name__ == "__main__":
    sys.exit(importlib.import_module("bpkd.cli").run("train", prog="python -m bpkd.engine"))
