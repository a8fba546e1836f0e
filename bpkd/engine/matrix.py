"""Several training runs as one resumable piece of work: the quick start and comparisons are made of it."""

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


@dataclass(frozen=True)
class Job:
    """One training run: a config, its changes, and the folder that holds everything it writes."""

    name: str
    config_file: str
    output: Path
    opts: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Names of jobs that must be complete first (the teacher's)."""

    @property
    def record(self) -> dict[str, Any] | None:
        """The run's record if it is complete, else None."""
        path = self.output / "run.json"
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def weights(self) -> Path:
        """Weights of the complete run."""
        return self.output / "model_final.pth"

    def last_row(self) -> dict[str, Any]:
        """The newest training row of metrics.json; empty before the first."""
        path = self.output / "metrics.json"
        lines = path.read_text().splitlines() if path.is_file() else []
        for line in reversed(lines):
            if '"total_loss"' in line and line.endswith("}"):
                return json.loads(line)
        return {}

    def start(self, threads: int) -> subprocess.Popen[bytes]:
        """Starts or continues the run in a process of its own, with its output in log files."""
        self.output.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bpkd.engine", "--config-file", self.config_file, "--resume"]
        command += ["OUTPUT_DIR", str(self.output), *self.opts]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with open(self.output / "console.log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)


class JobFailedError(RuntimeError):
    """A run ended with an error; the message holds the end of its output."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    say: Callable[[str], None],
    workers: int = 0,
    poll_seconds: float = 5.0,
) -> None:
    """Trains every job that is not complete, several at a time, with one line of progress and ETA.

    Args:
        jobs: runs in order; a job starts when the ones it names in ``after`` are complete.
        say: receives the lines.
        workers: runs at a time; 0 means one per CPU core.
        poll_seconds: seconds between lines of progress.

    Raises:
        JobFailedError: a run failed. What is complete stays complete; calling again goes on.
        KeyboardInterrupt: after the runs under way were stopped and saved.
    """
    cores = os.cpu_count() or 1
    workers = workers or cores
    done = {job.name for job in jobs if job.record}
    if done:
        say(f"already complete: {', '.join(j.name for j in jobs if j.name in done)}")
    waiting = [job for job in jobs if job.name not in done]
    if waiting:
        where = waiting[0].output.parent
        say(f"{len(waiting)} runs, at most {workers} at a time; each writes console.log below {where}")
    running: dict[Job, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            ready = [j for j in waiting if done.issuperset(j.after)][: workers - len(running)]
            for job in ready:
                waiting.remove(job)
                # A job that has the machine to itself until it is complete (the teacher) gets all of it.
                alone = all(job.name in other.after for other in waiting) and bool(waiting)
                running[job] = job.start(cores if alone else max(1, cores // workers))
            _wait(running.values(), poll_seconds)
            for job in [j for j, process in running.items() if process.poll() is not None]:
                _collect(job, running.pop(job), done, say)
            if running:
                say(f"[{len(done)} of {len(jobs)} done] {_progress(running)}")
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


def _collect(job: Job, process: subprocess.Popen[bytes], done: set[str], say: Callable[[str], None]) -> None:
    record = job.record
    if process.returncode or record is None:
        log = job.output / "console.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise JobFailedError(f"{job.name} ended with status {process.returncode}; the end of {log}:\n{tail}")
    done.add(job.name)
    miou = record["metrics"].get("mIoU", float("nan"))
    say(f"{job.name}: mIoU {miou:.2f} after {record['iterations']} iterations, {record['seconds']:.0f} s")


def _progress(running: Iterable[Job]) -> str:
    parts = []
    for job in running:
        row = job.last_row()
        if not row:
            parts.append(f"{job.name} starting")
            continue
        eta = row.get("eta_seconds")
        left = f", ETA {int(eta) // 60}:{int(eta) % 60:02d}" if eta is not None else ""
        parts.append(f"{job.name} iter {row['iteration'] + 1} loss {row['total_loss']:.3f}{left}")
    return " | ".join(parts)
