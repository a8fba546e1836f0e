"""Shared functions of the benchmarks: options, timing in turns, paired ratios, Markdown tables and JSON records."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bpkd.analysis.records import environment

ROOT = Path(__file__).resolve().parents[1]
CPU_TIME = "processor time of this process, not the clock's: where other programs take turns on the CPU"
PLACES = ("json", "peer_root", "root", "config_file", "tables", "peak_of", "opts")  # of this machine: not in a record
Call = Callable[[], object]
Clock = Callable[[], float]
Row = dict[str, Any]


def make_parser(text: str, *, rounds: int, device: str | None = None, peers: str = "") -> argparse.ArgumentParser:
    """Returns a parser with the options that all benchmarks share.

    Args:
        text: description; its first line is shown.
        rounds: default of ``--rounds``.
        device: default of ``--device``; None: the benchmark runs on the CPU and has no such option.
        peers: help of ``--peer-root``; empty: the benchmark compares with no other project.
    """
    shown = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=text.splitlines()[0], formatter_class=shown)
    parser.add_argument("--rounds", "--repeats", type=int, default=rounds, help="timed calls of each variant")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: torch's choice")
    parser.add_argument("--cpu-time", action="store_true", help=CPU_TIME)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write environment, setting and rows to it")
    if device:
        parser.add_argument("--device", default=device, help="auto: a GPU where there is one")
    if peers:
        parser.add_argument("--peer-root", "--peer-path", type=Path, metavar="DIR", help=peers)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the arguments and applies the shared ones: number of threads, device."""
    args = parser.parse_intermixed_args(argv)  # changes to a config may stand after options
    if args.rounds < 2:
        parser.error("--rounds: expected at least 2 (a spread needs two)")
    device = getattr(args, "device", "cpu")
    if args.cpu_time and device != "cpu":
        parser.error("--cpu-time: expected --device cpu with it, since it does not see what a GPU does")
    if device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def clock_of(args: argparse.Namespace) -> Clock:
    """Returns the clock that ``--cpu-time`` chooses."""
    return time.process_time if args.cpu_time else time.perf_counter


def is_cuda(args: argparse.Namespace) -> bool:
    """Returns whether the calls run on a GPU."""
    return torch.device(args.device).type == "cuda"


@dataclass
class Times:
    """Milliseconds of every call in every round and, on a GPU, the most MiB that a call needed."""

    ms: dict[Any, list[float]]
    mib: dict[Any, float] = field(default_factory=dict)

    def ratios(self, name: Any, base: Any) -> list[float]:
        """Returns the rounds' own ratios of one call's time to another's."""
        return [a / b for a, b in zip(self.ms[name], self.ms[base], strict=True)]

    def ratio(self, name: Any, base: Any) -> float:
        """Returns the median of the rounds' own ratios."""
        return statistics.median(self.ratios(name, base))

    def row(self, name: Any) -> Row:
        """Returns the median, the number of rounds and the peak memory (None on a CPU) of a call."""
        return {
            "median_ms": statistics.median(self.ms[name]),
            "rounds": len(self.ms[name]),
            "peak_mib": self.mib.get(name),
        }


def measure(calls: Mapping[Any, Call], rounds: int, cuda: bool = False, *, clock: Clock = time.perf_counter) -> Times:
    """Times every call once per round, in turns, after one round that is thrown away."""
    found: dict[Any, list[tuple[float, float | None]]] = in_turns(calls, lambda call: timed(call, cuda, clock), rounds)
    memory = {name: [mib for _, mib in results if mib is not None] for name, results in found.items()}
    spent = {name: [ms for ms, _ in results] for name, results in found.items()}
    return Times(spent, {name: max(mib) for name, mib in memory.items() if mib})


def timed(call: Call, cuda: bool = False, clock: Clock = time.perf_counter) -> tuple[float, float | None]:
    """Returns milliseconds of one call and, on a GPU, the MiB that it needed at most beyond what was there before."""
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    start = clock()
    call()
    if cuda:
        torch.cuda.synchronize()
    spent = 1e3 * (clock() - start)
    return spent, (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else None


def in_turns(
    calls: Mapping[Any, Any],
    timer: Callable[[Any], Any],
    rounds: int,
    *,
    seconds: float = math.inf,
    least: int = 3,
) -> dict[Any, list[Any]]:
    """Times every call, round by round, after one round that is thrown away.

    The order rotates from round to round and is reversed after each full rotation, so that no call always follows the
    same one.

    Args:
        calls: what to time, by name.
        timer: runs one call and returns what it measured.
        rounds: number of rounds at most.
        seconds: time limit; no round begins after it once there are ``least`` rounds.
        least: number of rounds that are measured in any case.
    """
    found: dict[Any, list[Any]] = {name: [] for name in calls}
    names, end = list(calls), time.monotonic() + seconds
    for index in range(-1, rounds):
        if index >= least and time.monotonic() > end:
            break
        turn, lap = index % len(names), index // len(names)
        for name in (names[turn:] + names[:turn])[:: -1 if lap % 2 else 1]:
            result = timer(calls[name])
            if index >= 0:
                found[name].append(result)
    return found


def quartiles(values: Iterable[float]) -> list[float]:
    """Returns the first and the third quartile."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def spread(values: Iterable[float]) -> list[float]:
    """Returns the 20th and the 80th percentile."""
    cuts = statistics.quantiles(values, n=5, method="inclusive")
    return [cuts[0], cuts[-1]]


def peak_mib(call: Call, *, warm_up: bool = False) -> float:
    """Returns the MiB that a call needs at most, of two calls, beyond what the process had before (Linux).

    To be called in a process of its own: other threads' memory would be counted.

    Args:
        call: measured call.
        warm_up: whether the first of the two calls comes before the measurement, so that what it keeps is not counted.
    """
    if warm_up:
        call()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)  # freed memory would be used again, unseen
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present size
    before = status_mib("VmRSS")
    call()
    if not warm_up:
        call()
    return max(0.0, status_mib("VmHWM") - before)


def status_mib(key: str) -> float:
    """Returns a size in MiB that Linux tells of this process, such as VmHWM, the peak of its memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def peak_in_child(module: str, argv: Sequence[object], **variables: str) -> float:
    """Returns the MiB that ``python -m module argv`` prints as its last word."""
    command = [sys.executable, "-m", module, *map(str, argv)]
    environ = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environ)
    return float(done.stdout.split()[-1])


def table(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns rows as a Markdown table.

    Args:
        columns: for each title the format of its cells, with the keys of a row; a cell whose value is None or absent
            stays empty. Columns of one formatted number are aligned to the right.
        rows: what to show.
    """
    numbers = [form.count("{") == 1 and ":" in form for form in columns.values()]
    lines = [_line(columns), "|" + "|".join("---:" if right else "---" for right in numbers) + "|"]
    return "\n".join([*lines, *(_line(_cell(form, row) for form in columns.values()) for row in rows)])


def _cell(form: str, row: Mapping[str, Any]) -> str:
    try:
        return form.format(**row)
    except (KeyError, TypeError):  # absent or None
        return ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def pair_of(key: str, form: str) -> str:
    """Returns a column's format for a value that is a pair, low and high."""
    return f"{{{key}[0]:{form}}} - {{{key}[1]:{form}}}"


def new_record(args: argparse.Namespace, **facts: Any) -> Row:
    """Returns a record without rows: environment, further facts, and the setting without places on this machine."""
    setting = {key: value for key, value in vars(args).items() if key not in PLACES}
    return {"environment": environment(), **facts, "setting": setting, "rows": []}


def write_record(path: Path | None, record: Row) -> None:
    """Writes a record as JSON; without a path nothing is written."""
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")


def shown_path(path: str | Path) -> str:
    """Returns a path relative to the repository; of a file outside it the name alone."""
    full = Path(path).resolve()
    return str(full.relative_to(ROOT) if full.is_relative_to(ROOT) else full.name)
