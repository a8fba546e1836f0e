"""What this machine gives to a run, for the values that a config leaves open."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/cpu.max")
# Loader workers of a process on a GPU, at most.
MOST_WORKERS = 4


def usable_cores() -> int:
    """Returns the CPU cores that this process may use: by its affinity, and by a container's quota where one is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CGROUP.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores


def loader_workers(asked: int, *, device: str, processes: int) -> int:
    """Returns the loader's worker processes of each training process.

    Args:
        asked: DATALOADER.NUM_WORKERS; below 0: what fits this machine. On a CPU the network takes the cores and a
            worker would take one of them away, so there is one only from four cores on.
        device: MODEL.DEVICE.
        processes: of the run on this machine.
    """
    if asked >= 0:
        return asked
    share = usable_cores() // processes
    if device.startswith("cpu"):
        return 1 if share >= 4 else 0
    return max(1, min(MOST_WORKERS, share - 1))
