"""Runs several training jobs, a number of them at a time; an interrupted call can be repeated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpkd.analysis.task import figures_of
from bpkd.paths import as_written

from .resources import Machine


@dataclass(frozen=True)
class Job:
    """One training run: a config, KEY VALUE pairs over it, and its output folder."""

    name: str
    config_file: str
    output: Path
    fixed_opts: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Names of jobs that must be complete first (the teacher's)."""
    late_opts: Callable[[], tuple[str, ...]] | None = None
    """More changes, known when the jobs in ``after`` are complete."""
    evaluates: str = ""
    """Weights of the config's teacher, which is evaluated; nothing is trained."""

    @property
    def method(self) -> str:
        """Method of the run: its name without the seed."""
        return self.name.rpartition("-seed")[0] or self.name

    @property
    def opts(self) -> tuple[str, ...]:
        """All KEY VALUE pairs of the run; with ``late_opts`` known when the jobs in ``after`` are complete."""
        return self.fixed_opts + (self.late_opts() if self.late_opts else ())

    @property
    def record(self) -> dict[str, Any] | None:
        """The run's record if it is complete, else None."""
        path = self.output / ("inference_teacher" if self.evaluates else "") / "run.json"
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def weights(self) -> Path:
        """Weights of the complete run."""
        return Path(self.evaluates) if self.evaluates else self.output / "model_final.pth"

    def last_row(self) -> dict[str, Any]:
        """The newest training row of metrics.json; empty before the first."""
        path = self.output / "metrics.json"
        lines = path.read_text().splitlines() if path.is_file() else []
        for line in reversed(lines):
            if '"total_loss"' in line and line.endswith("}"):
                return json.loads(line)
        return {}

    def command(self, processes: int) -> list[str]:
        """Returns the command that starts or continues the run."""
        command = [sys.executable, "-m", "bpkd", "train", "--config-file", as_written(self.config_file)]
        command += ["--eval-only", "--evaluate", "teacher"] if self.evaluates else ["--resume"]
        if processes > 1:
            command += ["--num-gpus", str(processes)]
        return [*command, "OUTPUT_DIR", as_written(self.output), *self.opts]

    def start(self, machine: Machine, slot: str, *, alone: bool) -> subprocess.Popen[bytes]:
        """Starts or continues the run in a process of its own, with its output in log files.

        Args:
            machine: number of runs at a time, with the GPUs and threads of each.
            slot: value of CUDA_VISIBLE_DEVICES for this run; empty: the variable is not set.
            alone: no other run will start before this one ends.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "OMP_NUM_THREADS": str(machine.threads(alone=alone)), "OMP_WAIT_POLICY": "PASSIVE"}
        if slot:
            env["CUDA_VISIBLE_DEVICES"] = slot
        with open(self.output / "console.log", "ab") as log:
            return subprocess.Popen(self.command(machine.processes), stdout=log, stderr=subprocess.STDOUT, env=env)


class JobFailedError(RuntimeError):
    """A run ended with an error; the message holds its last line."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    progress: Callable[[str], None],
    machine: Machine | None = None,
    poll_seconds: float = 5.0,
) -> None:
    """Trains every job that is not complete, several at a time, with one line of progress and ETA.

    Args:
        jobs: runs in order; a job starts when the ones it names in ``after`` are complete.
        progress: callback that receives each line.
        machine: number of runs at a time, with GPUs and threads of each; None: one run per CPU core.
        poll_seconds: seconds between lines of progress.

    Raises:
        JobFailedError: a run failed. Complete runs are kept; calling again continues the others.
        KeyboardInterrupt: the call was interrupted; the running jobs have saved a checkpoint and ended.
    """
    machine = machine or Machine()
    done = {job.name for job in jobs if job.record}
    if done:
        progress(f"already complete: {', '.join(j.name for j in jobs if j.name in done)}")
    waiting = [job for job in jobs if job.name not in done]
    if waiting:
        where = waiting[0].output.parent
        progress(f"{len(waiting)} runs, at most {machine.runs} at a time; each writes console.log below {where}")
    running: dict[Job, subprocess.Popen[bytes]] = {}
    free, taken = list(machine.slots), dict[Job, str]()
    try:
        while waiting or running:
            for job in [j for j in waiting if done.issuperset(j.after)][: len(free)]:
                waiting.remove(job)
                # A job that all others wait for (the teacher) gets the threads of all slots.
                alone = all(job.name in other.after for other in waiting) and bool(waiting)
                taken[job] = free.pop(0)
                running[job] = job.start(machine, taken[job], alone=alone)
            _wait(running.values(), poll_seconds)
            for job in [j for j, process in running.items() if process.poll() is not None]:
                free.append(taken.pop(job))
                _collect(job, running.pop(job), done, progress)
            if running:
                progress(f"[{len(done)} of {len(jobs)} done] {_progress(running)}")
    except BaseException:
        _stop(running.values())
        raise


def _wait(processes: Iterable[subprocess.Popen[bytes]], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(p.poll() is None for p in processes):
        time.sleep(0.1)


def _stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()  # the run saves a checkpoint on SIGTERM
    for process in processes:
        process.wait()


def _collect(job: Job, process: subprocess.Popen[bytes], done: set[str], progress: Callable[[str], None]) -> None:
    record = job.record
    if process.returncode or record is None:
        log = job.output / "console.log"
        raise JobFailedError(f"{job.name} ended with status {process.returncode}: {_reason(log)} See {log}.")
    done.add(job.name)
    name = figures_of([record]).score
    score = record["metrics"].get(name)
    reached = f"{name} {'-' if score is None else f'{score:.2f}'}"
    if job.evaluates:  # a checkpoint from elsewhere does not say how long it was trained
        progress(f"{job.name}: {reached} of {job.evaluates}")
    else:
        progress(f"{job.name}: {reached} after {record['iterations']} iterations, {record['seconds']:.0f} s")


def _reason(log: Path) -> str:
    """Returns the last line of an error in a run's output, else its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["no output."]
    return next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1]).removeprefix("error: ")


def _progress(running: Iterable[Job]) -> str:
    parts = []
    for job in running:
        row = job.last_row()
        if not row:
            parts.append(f"{job.name} {'evaluating' if job.evaluates else 'starting'}")
            continue
        eta = row.get("eta_seconds")
        left = f", ETA {int(eta) // 60}:{int(eta) % 60:02d}" if eta is not None else ""
        parts.append(f"{job.name} iter {row['iteration'] + 1} loss {row['total_loss']:.3f}{left}")
    return " | ".join(parts)
