"""Functions that run commands in processes, alone or as one process group."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from torch.multiprocessing import start_processes

from bpkd.engine import argument_parser, run

HANGS = 1800.0
"""Seconds after which a process counts as hanging. Far above what any needs: a busy machine is no error."""


def spawn(function: Callable[..., None], args: tuple[Any, ...], count: int, **options: Any) -> None:
    """Runs function(rank, *args) in so many processes at a time, and waits for them.

    They are forked off a server that has imported what they need and done nothing else: imports are most of the time
    that such a process takes, and one that has computed gradients cannot be forked.
    """
    multiprocessing.set_forkserver_preload(["bpkd.engine", "pytest", "cv2", "cityscapesscripts"])
    start_processes(function, args, count, start_method="forkserver", **options)


def two_processes(config: Path, out: Path, *opts: str) -> None:
    """One run of the engine in two processes of this machine."""
    arguments = ["--config-file", str(config), "--num-gpus", "2", *meeting(out.parent), "OUTPUT_DIR", str(out), *opts]

    def start(function: Callable[..., None], nprocs: int, args: tuple[Any, ...], daemon: bool) -> None:
        spawn(function, args, nprocs, daemon=daemon)

    with mock.patch("torch.multiprocessing.start_processes", start):
        run(argument_parser().parse_args(arguments))


def meeting(folder: Path) -> tuple[str, ...]:
    """Options that let the processes of one machine meet over a file: a port may be taken meanwhile."""
    return ("--dist-url", f"file://{folder}/meeting")


def free_port() -> int:
    """A port below those that the system hands out by itself, so that nobody gets it before it is used.

    The search starts at a port that depends on the process id, so that parallel tests find different ones.
    """
    for port in range(20000 + os.getpid() * 4 % 10000, 32768):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    pytest.fail("no port below 32768 is free")


def run_parallel(commands: list[list[str]]) -> None:
    """Runs the commands side by side on one thread each; all must succeed."""
    # A process that waits does not use the core that the other one needs.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
    running = [
        subprocess.Popen(c, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands
    ]
    try:
        for process in running:
            out, _ = process.communicate(timeout=HANGS)
            assert process.returncode == 0, out[-3000:]
    finally:
        for process in running:
            process.kill()  # those that wait for a failed process
            process.wait()


def command(config: Path, out: Path, *opts: str, flags: tuple[str, ...] = ()) -> list[str]:
    """Returns the command of one run of the engine."""
    start = [sys.executable, "-m", "bpkd.engine", "--config-file", str(config), *flags]
    return [*start, "OUTPUT_DIR", str(out), *opts]
