"""The same as `python -m bpkd.install_detectron2`, also where bpkd is not installed."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[1] / "bpkd" / "install_detectron2.py"), run_name="__main__")
