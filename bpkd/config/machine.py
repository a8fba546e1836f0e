"""CPU cores, processes and loader workers on this machine, for values that a config leaves open."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.utils import comm

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


def local_processes() -> int:
    """Returns how many processes of this run are on this machine; all of the run's if the launcher has not set it."""
    try:
        return comm.get_local_size()
    except AssertionError:  # a process group that Detectron2's launch has not made
        return comm.get_world_size()


def loader_workers(asked: int, *, device: str) -> int:
    """Returns the loader's worker processes of each training process.

    Args:
        asked: DATALOADER.NUM_WORKERS; below 0: what fits this machine. On a CPU the network takes the cores and a
            worker would take one of them away, so there is one only from four cores on.
        device: MODEL.DEVICE.
    """
    if asked >= 0:
        return asked
    share = usable_cores() // local_processes()
    if device.startswith("cpu"):
        return 1 if share >= 4 else 0
    return max(1, min(MOST_WORKERS, share - 1))
