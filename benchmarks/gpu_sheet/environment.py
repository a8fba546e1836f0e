"""Part 1: what the machine is, what it can reach, and which implementation each function takes there, and why."""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bpkd.functional import native
from bpkd.functional.triton_path import self_check
from bpkd.modeling.precision import has_instructions

from .device import Device
from .functions import FUNCTIONS, run_once
from .items import Item, Part, Row, Settings

ASKED = ("name", "driver_version", "memory.total", "power.limit", "clocks.sm", "clocks.mem", "clocks.max.sm",
         "clocks.max.mem", "temperature.gpu", "compute_mode", "mig.mode.current")  # fmt: skip


def machine(settings: Settings, seconds: float) -> Row:
    """Returns GPU, driver, clocks and versions."""
    del seconds
    device = torch.device(settings.device)
    found: Row = {"versions": {name: version_of(name) for name in ("torch", "triton", "numpy", "detectron2")}}
    found |= {"cuda": torch.version.cuda, "native": native.unavailable() or "loaded"}
    if Path("/dev/shm").is_dir():
        found["shared_memory_mib"] = shutil.disk_usage("/dev/shm").free // 2**20
    found["precision"] = {name: has_instructions(name, device) for name in ("bf16", "fp16")}
    name = "CPU"
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        name = about.name
        found |= {
            "gpu": name,
            "capability": f"{about.major}.{about.minor}",
            "memory_mib": about.total_memory // 2**20,
            "multiprocessors": about.multi_processor_count,
            "cudnn": torch.backends.cudnn.version(),
            "nvidia_smi": nvidia_smi(),
        }
    versions = found["versions"]
    return {**found, "line": f"{name}, torch {versions['torch']}, Triton {versions['triton']}"}


def version_of(name: str) -> str:
    """Returns an installed package's version, "absent" without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def nvidia_smi() -> dict[str, str]:
    """Returns what nvidia-smi says about the first GPU: driver, clocks, power limit; its error where it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"error": "nvidia-smi is not there"}
    command = [program, f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    values = [value.strip() for value in done.stdout.split(",")]
    if done.returncode or len(values) != len(ASKED):
        return {"error": (done.stderr or done.stdout).strip()[:300]}
    return dict(zip(ASKED, values, strict=True))


def ceilings(settings: Settings, seconds: float) -> Row:
    """Measures memory bandwidth (a large copy, bytes read and written) and the rate of a matrix product per type.

    The fastest of several, since other items compile beside it.
    """
    del seconds
    unit, count = Device(settings.device), settings.pick(2**29, 2**16)
    source, target = (torch.randint(256, (count,), dtype=torch.uint8, device=unit.device) for _ in range(2))
    rounds = settings.pick(20, 2)
    best = min(unit.device_ms(lambda: target.copy_(source)) for _ in range(rounds))
    side = settings.pick(8192, 64)
    rates: dict[str, float] = {}
    for name, dtype, tf32 in (("bf16", torch.bfloat16, False), ("fp16", torch.float16, False),
                              ("tf32", torch.float32, True), ("float32", torch.float32, False)):  # fmt: skip
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(side, side, device=unit.device).to(dtype) for _ in range(2))
        a @ b
        fastest = min(unit.device_ms(lambda a=a, b=b: a @ b) for _ in range(settings.pick(10, 2)))
        rates[name] = 2 * side**3 / fastest / 1e9
    found = {"copy_gb_s": 2 * count / best / 1e6, "matmul_tflop_s": rates, "matmul_side": side}
    return {**found, "line": f"copy {found['copy_gb_s']:.0f} GB/s, bf16 product {rates['bf16']:.0f} TFLOP/s"}


class Said(logging.Handler):
    """Collects log messages."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a message."""
        self.lines.append(record.getMessage())


def chosen(settings: Settings, seconds: float, *, function: str) -> Row:
    """Returns which implementation a function takes, why, and how long its first calls take, in float32 and bf16.

    On a GPU they compile the kernels and check them; the item fails where the check does not pass.
    """
    del seconds
    heard, logger = Said(), logging.getLogger("bpkd.functional.paths")
    logger.setLevel(logging.INFO)
    logger.addHandler(heard)
    device = torch.device(settings.device)
    begin = time.perf_counter()
    for student in (torch.float32, torch.bfloat16):  # a teacher's logits are always float32
        run_once(function, device, (student, torch.float32))
    spent = time.perf_counter() - begin
    found: dict[str, Any] = {"choice": heard.lines, "first_calls_seconds": spent}
    found["line"] = f"{'; '.join(heard.lines)} First calls: {spent:.1f} s"
    reasons = [reason for reason in self_check._found.values() if reason]
    return {**found, "failed": reasons[0]} if reasons else found


def items(settings: Settings) -> list[Item]:
    """The machine, its ceilings, and every function's implementation."""
    del settings
    found = [Item("machine", machine, 30), Item("ceilings", ceilings, 30)]
    return found + [Item(f"backend of {name}", partial(chosen, function=name), 90) for name in FUNCTIONS]


# Five seconds of questions; the rest is for the kernels, which are compiled on their first use (once per machine).
PART = Part("environment", "Environment", 60, items, parallel=True)
