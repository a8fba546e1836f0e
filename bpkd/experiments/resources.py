"""How many runs are trained at a time, and the GPUs and CPU threads of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from bpkd.config import usable_cores


@dataclass(frozen=True)
class Machine:
    """GPUs, processes and CPU cores for runs that are trained at the same time."""

    slots: tuple[str, ...] = field(default_factory=lambda: ("",) * usable_cores())
    """Value of CUDA_VISIBLE_DEVICES for each run at a time; "" does not set the variable."""
    processes: int = 1
    """Processes of one run."""
    cores: int = field(default_factory=usable_cores)

    @property
    def runs(self) -> int:
        """Runs at a time."""
        return len(self.slots)

    def threads(self, *, alone: bool) -> int:
        """Returns the CPU threads of one process; with ``alone`` those of all slots."""
        return max(1, self.cores // (self.processes * (1 if alone else self.runs)))


def divide(*, gpus: Sequence[str], per_run: int = 1, workers: int = 0, cores: int | None = None) -> Machine:
    """Divides GPUs and cores of a machine between runs.

    Args:
        gpus: names of the GPUs for CUDA_VISIBLE_DEVICES; empty: runs on CPU.
        per_run: processes of one run, each on a GPU of its own where there are any.
        workers: Most runs at a time; 0: as many as GPUs or cores allow.
        cores: CPU cores; None: those of this machine.

    Raises:
        ValueError: a count is negative, or one run needs more GPUs than there are.
    """
    cores = usable_cores() if cores is None else cores
    if per_run < 1 or workers < 0:
        raise ValueError(f"expected --num-gpus of at least 1 and --workers of at least 0, got {per_run}, {workers}.")
    if not gpus:
        return Machine(("",) * (workers or max(1, cores // per_run)), per_run, cores)
    if per_run > len(gpus):
        raise ValueError(
            f"--num-gpus {per_run}: expected at most the {len(gpus)} GPUs that are visible ({', '.join(gpus)}). "
            "Give fewer, or extend CUDA_VISIBLE_DEVICES."
        )
    count = len(gpus) // per_run
    groups = [",".join(gpus[i * per_run : (i + 1) * per_run]) for i in range(count)]
    return Machine(tuple(groups[: workers or count]), per_run, cores)


def visible_gpus() -> list[str]:
    """Returns the names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES takes them."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(i) for i in range(count)]
