"""Installed versions and the output of nvidia-smi, without torch."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

ASKED = ("name", "driver_version", "memory.total", "power.limit", "clocks.sm", "clocks.mem", "clocks.max.sm",
         "clocks.max.mem", "temperature.gpu", "compute_mode", "mig.mode.current")  # fmt: skip


def installed(name: str) -> str:
    """Returns an installed package's version, "absent" without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def nvidia_smi() -> dict[str, str]:
    """Returns nvidia-smi's driver, clocks and power limit of the first GPU, or its error."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"error": "nvidia-smi is not there"}
    command = [program, f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    values = [value.strip() for value in done.stdout.split(",")]
    if done.returncode or len(values) != len(ASKED):
        return {"error": (done.stderr or done.stdout).strip()[:300]}
    return dict(zip(ASKED, values, strict=True))
