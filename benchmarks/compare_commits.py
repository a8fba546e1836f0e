"""Compare the training step of two trees or commits: both run side by side, step by step in turns.

`python -m benchmarks.compare_commits OLD NEW --rounds 60 --json ratio.json [KEY VALUE ...]`; OLD and NEW are folders or
commits. Both train the same pair from the same weights on the same images; the ratio is the median of the rounds' own
ratios NEW / OLD. Processes are started anew several times, since each has its own layout of memory. A commit is checked
out in a temporary git worktree; its C++ functions are this tree's where their sources are equal, else built.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import ROOT, Row, Times

CONFIG = "projects/BPKD/configs/quickstart/pspnet__bpkd.yaml"
WORKER = Path(__file__).with_name("commit_worker.py")
OLD, NEW = "old", "new"
COLUMNS = {
    "method": "{method}",
    "old ms": "{old_ms:.1f}",
    "new ms": "{new_ms:.1f}",
    "new / old": "{ratio:.3f}",
    "95 %": harness.pair_of("interval", ".3f"),
    "of each start": "{shown}",
    "rounds": "{rounds:d}",
    "loss apart": "{loss_apart:.1e}",
}


class WorkerError(RuntimeError):
    """A tree cannot be measured; the message names the tree and the reason."""


class Worker:
    """A process that runs training steps of one tree."""

    def __init__(self, tree: Path, threads: int) -> None:
        """Starts the process with a number of threads."""
        self.tree, self.log = tree, tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with it
        environ = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(WORKER)]
        self.process = subprocess.Popen(
            command, cwd=tree, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def call(self, **request: Any) -> Row:
        """Sends a request and returns the answer.

        Raises:
            WorkerError: the process ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: the log says why
            print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            said = self.log.read().strip().splitlines() or ["it printed nothing"]
            raise WorkerError(f"{self.tree}: {said[-1]}")
        answer: Row = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        self.log.close()


@contextlib.contextmanager
def checked_out(name: str) -> Iterator[Path]:
    """Yields the folder of a tree: itself, or a temporary worktree of a commit.

    Raises:
        WorkerError: the argument is neither a folder nor a commit.
    """
    if Path(name).is_dir():
        yield Path(name).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        if _git("worktree", "add", "--detach", str(tree), name).returncode:
            raise WorkerError(f"{name}: expected a folder or a commit of this repository, got neither.")
        try:
            provide_library(tree)
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


def provide_library(tree: Path) -> None:
    """Copies this tree's C++ functions where their sources are equal, else builds them."""
    mine, theirs = (
        {path.name: path for path in sorted((root / "bpkd" / "functional").rglob("*")) if path.suffix in (".cpp", ".h")}
        for root in (ROOT, tree)
    )
    libraries = [path for source in mine.values() for path in source.parent.glob("*.so")]
    same = mine.keys() == theirs.keys() and all(p.read_bytes() == theirs[n].read_bytes() for n, p in mine.items())
    if same and libraries:
        for path in libraries:
            shutil.copy(path, next(iter(theirs.values())).parent)
    else:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(command, cwd=tree, capture_output=True, check=False)  # without a compiler: PyTorch's own path


def measure(trees: dict[str, Path], method: str, args: argparse.Namespace) -> Row:
    """The row of one method: all rounds of all starts."""
    found = [one_start(trees, method, args, number) for number in range(args.starts)]
    ratios = [ratio for times, _ in found for ratio in times.ratios(NEW, OLD)]
    medians = {f"{side}_ms": statistics.median(ms for times, _ in found for ms in times.ms[side]) for side in trees}
    starts = [times.ratio(NEW, OLD) for times, _ in found]
    row = {"method": method, **medians, "ratio": statistics.median(ratios), "interval": interval(ratios)}
    row |= {"starts": starts, "rounds": len(ratios), "loss_apart": max(apart for _, apart in found), "ratios": ratios}
    return row


def one_start(trees: dict[str, Path], method: str, args: argparse.Namespace, number: int) -> tuple[Times, float]:
    """Returns the times of both sides in turns, from one start of the processes, and the largest loss difference."""
    order = [OLD, NEW] if number % 2 else [NEW, OLD]
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        workers = {}
        for side in order:
            workers[side] = Worker(trees[side], args.threads)
            stack.callback(workers[side].close)
        weights = f"{folder}/teacher.pth"
        opts = ["MODEL.DEVICE", args.device, "DATALOADER.NUM_WORKERS", 0, *args.opts, "DISTILL.METHOD", method]
        workers[OLD].call(do="teacher", config=args.config_file, opts=opts, path=weights)
        build = {"config": args.config_file, "opts": [*opts, "TEACHER.WEIGHTS", weights], "threads": args.threads}
        built = {side: worker.call(do="build", **build) for side, worker in workers.items()}
        for side, facts in built.items():
            if not Path(facts["bpkd"]).is_relative_to(trees[side]):
                raise WorkerError(f"{trees[side]}: expected its own bpkd, imported that of {facts['bpkd']}.")
        if built[OLD]["native"] != built[NEW]["native"]:
            levels = f"{built[OLD]['native']} and {built[NEW]['native']}"
            raise WorkerError(f"expected the same C++ functions on both sides, got {levels}.")
        losses: dict[str, list[float]] = {side: [] for side in trees}
        request = {"do": "steps", "cpu_time": args.cpu_time, "cuda": harness.is_cuda(args)}

        def steps(side: str) -> float:
            answer = workers[side].call(**request, steps=args.steps)
            losses[side] += answer["loss"]
            return statistics.median(answer["ms"])

        for worker in workers.values():  # the first steps take longer
            worker.call(**request, steps=3)
        times = Times(harness.in_turns({side: side for side in order}, steps, args.rounds))
    return times, max(abs(a - b) / abs(a) for a, b in zip(losses[OLD], losses[NEW], strict=True))


def interval(values: Sequence[float]) -> list[float]:
    """Returns the 95 % confidence interval of the median, by the order of the values alone."""
    ranked, count = sorted(values), len(values)
    low = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2))
    return [ranked[low], ranked[count - 1 - low]]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads and checks the arguments."""
    parser = harness.make_parser(__doc__, rounds=20, device="cpu")
    parser.add_argument("old", help="folder or commit that is the measure")
    parser.add_argument("new", help="folder or commit that is compared with it")
    parser.add_argument("--config-file", default=CONFIG, help="pair to train; each tree reads its own file")
    parser.add_argument("--methods", nargs="+", default=["BPKD"], help="values of DISTILL.METHOD")
    parser.add_argument("--steps", type=int, default=3, help="steps of a round, of which the median counts")
    parser.add_argument("--starts", type=int, default=4, help="starts of the processes, each with --rounds rounds")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config")
    parser.set_defaults(threads=1)
    args = harness.parse(parser, argv)
    if args.starts < 1 or args.steps < 1:
        parser.error("--starts and --steps: expected at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    args = parse(argv)
    record = harness.new_record(args)
    record["setting"]["opts"] = args.opts
    try:
        with checked_out(args.old) as old, checked_out(args.new) as new:
            for method in args.methods:
                record["rows"].append(measure({OLD: old, NEW: new}, method, args))
                harness.write_record(args.json, record)
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = [{**row, "shown": ", ".join(f"{r:.3f}" for r in row["starts"])} for row in record["rows"]]
    print(harness.table(COLUMNS, shown))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
