"""Fixtures that run comparisons in this process."""

from __future__ import annotations

import json
import logging
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpkd.cli.train import parser as argument_parser
from bpkd.engine.launch import main
from bpkd.experiments.jobs import Job

ROOT = Path(__file__).parents[2]

SECONDS = {"none": 0.2, "BPKD": 0.3}


class Finished:
    """Replaces a process that has ended with status 0."""

    returncode = 0

    def poll(self) -> int:
        return 0

    def terminate(self) -> None: ...

    def wait(self) -> int:
        return 0


@pytest.fixture
def own_loggers() -> Iterator[None]:
    """Removes the log handlers that a run in this process adds: their stream is closed after the test."""
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2", "bpkd")]
    before = [(one, list(one.handlers), one.propagate) for one in loggers]
    yield
    for one, handlers, propagate in before:
        one.handlers, one.propagate = handlers, propagate


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, own_loggers: None) -> list[str]:
    """Runs jobs in this process instead of one each; returns the names in the order of their start."""
    names: list[str] = []

    def start(job: Job, *_: Any, **__: Any) -> Finished:
        names.append(job.name)
        command = job.command(1)
        main(argument_parser().parse_args(command[4:]))
        made = job.output / "run.json"
        if job.method in SECONDS and made.exists():  # the times of four steps vary too much
            made.write_text(json.dumps({**json.loads(made.read_text()), "seconds_per_iteration": SECONDS[job.method]}))
        return Finished()

    monkeypatch.setattr(Job, "start", start)
    return names


@pytest.fixture(scope="module")
def compare() -> Callable[..., int]:
    tool: Callable[[list[str]], int] = runpy.run_path(str(ROOT / "tools" / "compare.py"))["main"]
    return lambda *arguments: tool([str(a) for a in arguments])
