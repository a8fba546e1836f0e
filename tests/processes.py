"""Commands in processes of their own, and where several of them meet."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HANGS = 1800.0
"""Seconds after which a process counts as hanging. Far above what any needs: a busy machine is no error."""


def meeting(folder: Path) -> tuple[str, ...]:
    """Options that let the processes of one machine meet over a file: a port may be taken meanwhile."""
    return ("--dist-url", f"file://{folder}/meeting")


def free_port() -> int:
    """A port below those that the system hands out by itself, so that nobody gets it before it is used.

    The search starts at the process's own place: tests that run side by side do not find the same one.
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
    # A process that waits for the other one leaves it the core.
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
            process.kill()  # of those that still wait for a failed one
            process.wait()


def command(config: Path, out: Path, *opts: str, flags: tuple[str, ...] = ()) -> list[str]:
    """Returns the command of one run of the engine."""
    start = [sys.executable, "-m", "bpkd.engine", "--config-file", str(config), *flags]
    return [*start, "OUTPUT_DIR", str(out), *opts]
