"""Golden losses: 100 training steps of every distiller on a tiny pair, recorded, checked, compared.

    python dev/golden_losses.py record FOLDER              # what this tree's losses are
    python dev/golden_losses.py check [FOLDER]             # this tree beside the committed values
    python dev/golden_losses.py compare main HEAD          # two commits, or two folders with a tree or a record

`compare` expects the same bits: same machine, same number of threads. `check` allows for other processors, whose sums
are rounded in another order; docs of the tolerance: tests/golden/losses/README.md.

The process that trains runs this file with PYTHONPATH at the tree in question, so that old commits can be recorded
too: it uses `load_config` and `DistillationTrainer` of `bpkd.engine` and reads the run's metrics.json, nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from golden_cases import CASES, SHARPER, TASKS, TEACHERS

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "losses"
STEPS = 100
# The committed files hold every step's total and the terms of each tenth step.
TERMS_EVERY = 10

# Of `check`, see ``furthest``: what another instruction set or number of threads may change (the README says what was
# measured).
TOLERANCES = dict.fromkeys(CASES, 1e-3)
Record = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 1 where values differ, 2 where a tree cannot be recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="record the losses of a tree")
    one.add_argument("folder", type=Path, help="where the files go")
    one.add_argument("--tree", type=Path, default=ROOT, help="folder that holds the package bpkd (this one)")
    one.add_argument("--compact", action="store_true", help="as committed: nine digits, terms of every tenth step")
    two = commands.add_parser("check", help="compare this tree with recorded values, within the tolerance")
    two.add_argument("folder", type=Path, nargs="?", default=GOLDEN, help="record (the committed one)")
    three = commands.add_parser("compare", help="compare two trees bit by bit")
    three.add_argument("old", help="a commit, or a folder: a tree or a record")
    three.add_argument("new", help="the same")
    for sub in (one, two, three):
        sub.add_argument("--cases", nargs="+", choices=CASES, metavar="NAME", help=f"of {', '.join(CASES)} (all)")
    train = commands.add_parser("_train")  # the process that trains
    train.add_argument("folder", type=Path)
    train.add_argument("cases", nargs="+")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    names = args.cases or list(CASES)
    if args.command == "_train":
        train_cases(args.folder, names)
        return 0
    if args.command == "record":
        write(record(args.tree, names), args.folder, compact=args.compact)
        return 0
    if args.command == "check":
        return verdict(check(read(args.folder, names), record(ROOT, names), tolerances=TOLERANCES), names)
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(recorded(place, names)) for place in (args.old, args.new))
        return verdict(check(old, new, tolerances={}), names)


def verdict(differences: Sequence[str], names: Sequence[str]) -> int:
    """Prints what differs, and returns the exit status."""
    print("\n".join(differences) or f"{len(names)} runs agree")
    return 1 if differences else 0


# One tree


def record(tree: Path, names: Sequence[str]) -> dict[str, Record]:
    """Trains every case in a process of its own with the package of a tree.

    Args:
        tree: folder that holds the package bpkd.
        names: cases; the teachers that they need are trained too.

    Returns:
        {case: {term: values of all steps}}.

    Raises:
        ValueError: there is no package, or a run fails; the message ends with the last lines of its output.
    """
    if not (tree / "bpkd" / "__init__.py").is_file():
        raise ValueError(f"{tree}: expected a folder with the package bpkd.")
    with tempfile.TemporaryDirectory(prefix="bpkd-golden-") as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "_train", folder, *names]
        env = {**os.environ, "PYTHONPATH": str(tree.resolve()), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise ValueError(f"{tree}: training failed: " + "\n".join(lines[-12:]))
        return read(Path(folder) / "losses", names)


def train_cases(folder: Path, names: Sequence[str]) -> None:
    """Trains cases with the package that this process finds, and writes their losses to ``folder/losses``."""
    import logging
    import warnings

    import bpkd

    tree = os.environ["PYTHONPATH"]
    if not Path(bpkd.__file__).is_relative_to(tree):
        raise ValueError(f"expected the package bpkd of {tree}, got {bpkd.__file__}.")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    for task, (text, _) in TASKS.items():
        (folder / f"{task}.yaml").write_text(text)
    needed = {TEACHERS[CASES[name][0]] for name in names if "DISTILL.METHOD" in CASES[name][1]}
    for name in [*sorted(needed - set(names)), *sorted(names, key=lambda n: n not in TEACHERS.values())]:
        begin = time.process_time()
        write({name: train_case(folder, name)}, folder / "losses")
        print(f"{name}: {time.process_time() - begin:.1f} s of processor time", file=sys.stderr)


def train_case(folder: Path, name: str) -> Record:
    """Trains one case, and returns the values of all its steps."""
    from bpkd.engine import DistillationTrainer, load_config

    task, opts = CASES[name]
    out = folder / name
    opts = (*opts, "OUTPUT_DIR", str(out), "SOLVER.MAX_ITER", str(STEPS))
    if "DISTILL.METHOD" in opts:
        teacher = {"CONFIG_FILE": f"{folder}/{task}.yaml", "WEIGHTS": f"{folder}/{TEACHERS[task]}/model_final.pth"}
        opts += (
            "MODEL.META_ARCHITECTURE",
            TASKS[task][1],
            *(x for k, v in teacher.items() for x in (f"TEACHER.{k}", v)),
        )
        if name.startswith("two_teachers"):
            opts += ("TEACHER.OTHERS", str([{**teacher, "OPTS": ["MODEL.SEM_SEG_HEAD.ALIGN_CORNERS", True]}]))
    out.mkdir()
    trainer = DistillationTrainer(load_config(f"{folder}/{task}.yaml", opts))
    trainer.resume_or_load(resume=False)
    trainer.train()
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    steps = {row["iteration"]: row for row in rows if "total_loss" in row}
    if sorted(steps) != list(range(STEPS)):
        raise ValueError(f"{name}: expected {STEPS} rows with losses, got {len(steps)}.")
    if name in TEACHERS.values():
        sharpen(out / "model_final.pth")
    terms = [key for key in steps[0] if key.startswith("loss_") and not key.startswith("loss_share_")]
    return {key: [steps[i][key] for i in range(STEPS)] for key in ("total_loss", *sorted(terms))}


def sharpen(path: Path) -> None:
    """Scales the last layers in a checkpoint by SHARPER."""
    import torch

    data = torch.load(path, weights_only=True)
    for key, value in data["model"].items():
        value *= next((factor for end, factor in SHARPER.items() if key.endswith(end)), 1)
    torch.save(data, path)


# Records


def write(records: dict[str, Record], folder: Path, *, compact: bool = False) -> None:
    """Writes a JSON file per case: every value, or as committed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in records.items():
        if compact:
            values = {k: v if k == "total_loss" else v[::TERMS_EVERY] for k, v in values.items()}
            values = {k: [float(f"{x:.9g}") for x in v] for k, v in values.items()}
        (folder / f"{name}.json").write_text(json.dumps(values) + "\n")


def read(folder: Path, names: Sequence[str]) -> dict[str, Record]:
    """Reads the files of cases.

    Raises:
        ValueError: a file is missing.
    """
    missing = [name for name in names if not (folder / f"{name}.json").is_file()]
    if missing:
        raise ValueError(f"{folder}: expected a file per case, none of {', '.join(missing)}.")
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


@contextlib.contextmanager
def recorded(place: str, names: Sequence[str]) -> Iterator[dict[str, Record]]:
    """Reads a record, or makes that of a tree or of a commit in a worktree that is gone afterwards."""
    folder = Path(place)
    if (folder / f"{names[0]}.json").is_file():
        yield read(folder, names)
    elif folder.is_dir():
        yield record(folder, names)
    else:
        with worktree(place) as tree:
            yield record(tree, names)


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Checks a commit out into a temporary worktree with the C++ libraries built.

    Raises:
        ValueError: git does not know the commit, or the libraries cannot be built.
    """
    with tempfile.TemporaryDirectory(prefix="bpkd-golden-") as folder:
        tree = Path(folder) / "tree"
        _quietly(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), commit])
        try:
            _quietly([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tree)
            yield tree
        finally:
            _quietly(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)])


def _quietly(command: list[str], cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ValueError(f"{' '.join(command[:6])} failed: {' '.join(last)}")


def check(want: dict[str, Record], got: dict[str, Record], *, tolerances: Mapping[str, float]) -> list[str]:
    """Returns a line per term that differs.

    Args:
        want: {case: {term: values}}, of all steps or of every tenth.
        got: the same, of all steps.
        tolerances: {case: difference that is allowed, see ``furthest``}; the same bits where a case is missing.
    """
    lines = []
    for name, old in want.items():
        new = got[name]
        if list(old) != list(new):
            lines.append(f"{name}: expected the terms {', '.join(old)}, got {', '.join(new)}")
            continue
        for term, values in old.items():
            every = STEPS // len(values)
            step, size = furthest(values, new[term][:: every if len(new[term]) > len(values) else 1])
            if size > tolerances.get(name, 0.0):
                lines.append(f"{name}: {term} differs most at step {step * every}: by {size:.2g} of {values[step]:.9g}")
    return lines


def furthest(old: Sequence[float], new: Sequence[float]) -> tuple[int, float]:
    """Returns the place where two series differ most, and by how much of the value or of the series' mean size."""
    scale = sum(map(abs, old)) / len(old)
    sizes = [0.0 if a == b else abs(a - b) / max(abs(a), scale, 1e-30) for a, b in zip(old, new, strict=True)]
    sizes = [math.inf if size != size else size for size in sizes]
    step = max(range(len(sizes)), key=sizes.__getitem__)
    return step, sizes[step]


if __name__ == "__main__":
    sys.exit(main())
