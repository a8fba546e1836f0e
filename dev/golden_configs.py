"""Records what the configs of a tree mean, as tests/golden/configs holds it for the tree before a change.

    python dev/golden_configs.py TREE FOLDER

TREE is a checkout with the package bpkd. FOLDER receives ``resolved.json`` (what each YAML file below configs/ and
projects/ resolves to), ``<case>.yaml`` (the config.yaml of a run, every key) and ``<case>.run.json`` (the run's
record) for cases of golden_losses.py.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from golden_losses import CASES, TASKS, TEACHERS  # noqa: E402 - beside this file

DUMPS = (
    "none", "kd_masked", "cwd_decode", "bpkd_literal", "skds", "ifvd_author", "cirkd", "kd_bpkd_weighted",
    "two_teachers_probabilities", "instance_none", "instance_bpkd_per_class",
)  # fmt: skip
RECORDS = ("none", "bpkd_literal", "instance_none", "instance_bpkd_per_class")


def main(tree: str, folder: str) -> None:
    """Starts this file with the package of the tree; relative paths only get into the files."""
    out = Path(folder).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bpkd-golden-") as runs:
        env = {**os.environ, "PYTHONPATH": str(Path(tree).resolve()), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, str(Path(__file__).resolve()), "_record", str(Path(tree).resolve()), str(out)]
        subprocess.run(command, env=env, cwd=runs, check=True)


def record(tree: Path, out: Path) -> None:
    """Writes the files with the package that this process finds; the working folder receives the runs."""
    from bpkd.config import read_config

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    for task, (text, _) in TASKS.items():
        Path(f"{task}.yaml").write_text(text)
    for name in DUMPS:
        (out / f"{name}.yaml").write_text(config(name).dump())
    for name in [*TEACHERS.values(), *RECORDS]:
        run(name)
        if name in RECORDS:
            (out / f"{name}.run.json").write_bytes(Path("output", name, "run.json").read_bytes())
    os.chdir(tree)
    files = sorted(str(p) for folder in ("configs", "projects") for p in Path(folder).rglob("*.yaml"))
    resolved = {name: flat(read_config(name)) for name in files if "/search/" not in name}
    (out / "resolved.json").write_text(json.dumps(compact(resolved)) + "\n")


def config(name: str) -> Any:
    """Returns the config of a case as its run has it."""
    from bpkd.engine import load_config

    task, opts = CASES[name]
    opts = (*opts, "OUTPUT_DIR", f"output/{name}", "SOLVER.MAX_ITER", "2")
    if "DISTILL.METHOD" in opts:
        teacher = {"CONFIG_FILE": f"{task}.yaml", "WEIGHTS": f"output/{TEACHERS[task]}/model_final.pth"}
        opts += (
            "MODEL.META_ARCHITECTURE",
            TASKS[task][1],
            *(x for k, v in teacher.items() for x in (f"TEACHER.{k}", v)),
        )
        if name.startswith("two_teachers"):
            opts += ("TEACHER.OTHERS", str([teacher]))
    return load_config(f"{task}.yaml", opts)


def run(name: str) -> None:
    """Trains a case for two steps."""
    from bpkd.engine import DistillationTrainer

    cfg = config(name)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True)
    trainer = DistillationTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of a config by dotted key."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def compact(resolved: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns {"defaults": bpkd's own keys, "values": [key, value] pairs, "files": {file: numbers of its pairs}}.

    A file has the pairs that differ from the defaults; Detectron2's defaults are left out, they are its version's.
    """
    from detectron2.config import get_cfg

    from bpkd.config import get_bpkd_cfg

    ours, theirs = flat(get_bpkd_cfg()), flat(get_cfg())
    defaults = {k: v for k, v in ours.items() if k not in theirs or theirs[k] != v}
    numbers: dict[str, int] = {}
    files = {}
    for name, values in resolved.items():
        pairs = [json.dumps([k, v]) for k, v in values.items() if v != ours[k]]
        files[name] = [numbers.setdefault(pair, len(numbers)) for pair in pairs]
    return {"defaults": defaults, "values": [json.loads(pair) for pair in numbers], "files": files}


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "_record":
        record(Path(sys.argv[2]), Path(sys.argv[3]))
    elif len(sys.argv) == 3:
        main(sys.argv[1], sys.argv[2])
    else:
        sys.exit(f"error: expected TREE FOLDER, got {len(sys.argv) - 1} arguments.")
