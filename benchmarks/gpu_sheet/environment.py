"""Part 1: hardware and versions, peak rates, and the backend that each function chooses, with its reason."""

from __future__ import annotations

import logging
import shutil
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bpkd.functional.backends import dispatch, native
from bpkd.functional.backends.triton import self_check
from bpkd.modeling.precision import has_instructions

from .device import Device
from .functions import FUNCTIONS, run_once
from .items import Item, Part, Row, Settings
from .machine import installed

PACKAGES = (
    "detectron2.engine",
    "fvcore",
    "pycocotools.mask",
    "cv2",
    "torchvision",
    "matplotlib",
    "tensorboard",
    "pytest",
)


def packages(settings: Settings, seconds: float) -> Row:
    """Imports what later parts need, so that a missing package is reported first."""
    del seconds
    missing = []
    for name in (*PACKAGES, *(("scipy", "rich") if settings.peers else ())):
        try:
            import_module(name)
        except Exception as error:
            missing.append(f"{name} ({type(error).__name__}: {error})")
    return {"failed": f"cannot be imported: {'; '.join(missing)}"} if missing else {"line": "all there"}


def data(settings: Settings, seconds: float) -> Row:
    """Checks that the images and masks of the training exist."""
    from bpkd.config import read_config
    from bpkd.data import check_dataset, register_datasets

    from .train import data_options, pair_config

    del seconds
    cfg = read_config(str(pair_config(settings)), data_options(settings))
    register_datasets(cfg)
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in names:
        check_dataset(name, mode="fast", subset=False)
    return {"line": ", ".join(names)}


def machine(settings: Settings, seconds: float) -> Row:
    """Returns what the GPU is; driver, clocks and versions are in every record's environment."""
    del seconds
    device = torch.device(settings.device)
    found: Row = {"native": native.unavailable_reason() or "loaded"}
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
        }
    return {**found, "line": f"{name}, torch {torch.__version__}, Triton {installed('triton')}"}


def ceilings(settings: Settings, seconds: float) -> Row:
    """Measures memory bandwidth (a large copy, bytes read and written) and the rate of a matrix product per type.

    The fastest of several, since other items compile beside it.
    """
    del seconds
    unit = Device(settings.device)
    copied = unit.copy_gb_s(*settings.pick((2**29, 20), (2**16, 2)))
    side = settings.pick(8192, 64)
    rates: dict[str, float] = {}
    for name, dtype, tf32 in (("bf16", torch.bfloat16, False), ("fp16", torch.float16, False),
                              ("tf32", torch.float32, True), ("float32", torch.float32, False)):  # fmt: skip
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(side, side, device=unit.device).to(dtype) for _ in range(2))
        a @ b
        fastest = min(unit.device_ms(lambda a=a, b=b: a @ b) for _ in range(settings.pick(10, 2)))
        rates[name] = 2 * side**3 / fastest / 1e9
    found = {"copy_gb_s": copied, "matmul_tflop_s": rates, "matmul_side": side}
    return {**found, "line": f"copy {found['copy_gb_s']:.0f} GB/s, bf16 product {rates['bf16']:.0f} TFLOP/s"}


class MessageList(logging.Handler):
    """Collects log messages."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Appends a message."""
        self.lines.append(record.getMessage())


def chosen(settings: Settings, seconds: float, *, function: str) -> Row:
    """Returns the backend that a function chooses, the reason, and the time of its first calls in float32 and bf16.

    On a GPU they compile the kernels and check them; the item fails where the check does not pass.
    """
    del seconds
    messages, logger = MessageList(), logging.getLogger(dispatch.__name__)
    logger.setLevel(logging.INFO)
    logger.addHandler(messages)
    device = torch.device(settings.device)
    begin = time.perf_counter()
    for student in (torch.float32, torch.bfloat16):  # a teacher's logits are always float32
        run_once(function, device, (student, torch.float32))
    spent = time.perf_counter() - begin
    found: dict[str, Any] = {"choice": messages.lines, "first_calls_seconds": spent}
    found["line"] = f"{'; '.join(messages.lines)} First calls: {spent:.1f} s"
    reasons = self_check.failures()
    return {**found, "failed": reasons[0]} if reasons else found


def items(settings: Settings) -> list[Item]:
    """The machine, its ceilings, and every function's implementation."""
    found = [Item("machine", machine, 30), Item("packages", packages, 60), Item("ceilings", ceilings, 30)]
    if settings.data is not None:
        found.append(Item("data", data, 60))
    return found + [Item(f"backend of {name}", partial(chosen, function=name), 90) for name in FUNCTIONS]


# Five seconds for the machine, the rest for the kernels, which are compiled on their first use (once per machine).
PART = Part("environment", "Environment", 60, items, parallel=True)
