"""Teacher-student pairs with random weights and a batch, whose training steps are timed."""

from __future__ import annotations

import copy
import statistics
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.distillers import freeze, step
from benchmarks.harness import Times, in_turns
from benchmarks.scenes import make_batch
from bpkd.config import read_config
from bpkd.data.batch import Batch
from bpkd.modeling import build_student
from bpkd.modeling.teachers.frozen import FrozenTeacher

from .device import Call, Device
from .items import Row, Settings

CONFIGS = Path(__file__).resolve().parents[2] / "projects" / "BPKD" / "configs"
PAIRS = {
    "pspnet": CONFIGS / "ade20k" / "pspnet_r18__pspnet_r101.yaml",
    "hrnet": CONFIGS / "ade20k" / "hrnet_w18s__hrnet_w48.yaml",
    "cityscapes": CONFIGS / "cityscapes" / "pspnet_r18__pspnet_r101.yaml",
    "small": CONFIGS / "camvid" / "small__bpkd.yaml",
    "camvid": CONFIGS / "camvid" / "pspnet_r18__pspnet_r101__bpkd.yaml",
    "camvid teacher": CONFIGS.parents[2] / "configs" / "camvid" / "pspnet_r101.yaml",  # a network alone
    "solov2": CONFIGS / "coco" / "solov2_light_r18__solov2_x101_dcn__bpkd_1x.yaml",
}
SLIM = ("MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 0.0625, "MODEL.SEM_SEG_HEAD.CHANNELS", 16, "MODEL.AUX_HEAD.CHANNELS", 8)
SLIM_HRNET = ("MODEL.HRNET.WIDTH_MULTIPLIER", 0.125, "MODEL.SEM_SEG_HEAD.CHANNELS", 16)
Size = tuple[int, int]


class Pair:
    """A student, a teacher with random weights and a batch; weights do not change a time."""

    def __init__(self, settings: Settings, name: str, size: Size, batch: int, *, opts: tuple[Any, ...] = ()) -> None:
        """Builds both networks of a pair.

        Args:
            settings: settings of the sheet; device and tiny are read.
            name: key of `PAIRS`.
            size: height and width of the images.
            batch: number of images.
            opts: KEY VALUE pairs for both configs.
        """
        self.size, batch = settings.pick(size, (64, 64)), settings.pick(batch, 2)
        slim = settings.pick((), SLIM_HRNET if name == "hrnet" else SLIM)
        opts = ("MODEL.DEVICE", settings.device, *slim, *opts)
        self.cfg = read_config(str(PAIRS[name]), ["INPUT.CROP_SIZE", list(self.size), *opts])
        torch.manual_seed(0)
        self.student, self.network = build_student(self.cfg), nn.Identity()
        self.student.accelerate(channels_last=self.cfg.MODEL.CHANNELS_LAST, compiled=self.cfg.MODEL.COMPILE)
        if self.cfg.TEACHER.CONFIG_FILE:
            self.network = build_student(read_config(self.cfg.TEACHER.CONFIG_FILE, [*self.cfg.TEACHER.OPTS, *opts]))
            self.network.drop_auxiliary()
        self.batch = as_loaded(make_batch(batch, self.size, self.student.num_classes), settings)
        self.device = settings.device

    def teacher(self, fast: str, amp: str) -> FrozenTeacher:
        """Returns the frozen teacher with these values of TEACHER.OPTIMIZE and TEACHER.AMP."""
        arguments = Namespace(device=self.device, size=max(self.size))
        return freeze(copy.deepcopy(self.network), fast, amp, arguments)

    def step(self, method: str, teacher: FrozenTeacher, amp: str) -> Call:
        """Returns a call that runs the trainer's own step with a method."""
        return step(method, self.cfg, self.student, teacher, self.batch, amp=amp)


def as_loaded(batch: list[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Returns a batch as the training loader delivers it: for a GPU in pinned memory."""
    return Batch(batch).pin_memory() if settings.device == "cuda" else batch


def timed(settings: Settings, seconds: float, calls: dict[str, Call], images: int, against: str) -> Row:
    """Times the calls in turns: milliseconds, images per second, ratio to one of them, peak memory."""
    unit, end = Device(settings.device), time.monotonic() + seconds
    memory = {name: unit.peak_mib(call) for name, call in calls.items()}  # the first calls: they take their time
    begin = time.monotonic()
    most, least = settings.pick((21, 3), (2, 2))
    times = Times(in_turns(calls, unit.call_ms, most, seconds=end - begin - 2, least=least))
    rows = {}
    for name, spent in times.ms.items():
        median = statistics.median(spent)
        rows[name] = {
            "ms": median,
            "times_ms": spent,
            "images_s": 1e3 * images / median,
            "ratio": times.ratio(name, against),
            "peak_mib": memory[name],
        }
    found: Row = {"rows": rows, "against": against, "rounds": len(times.ms[against]), "images_per_step": images}
    found["inputs"] = "weights random (seed 0), images noise; two calls before the first round"
    found["measured_seconds"] = time.monotonic() - begin
    return {**found, "line": "; ".join(f"{name} {row['ms']:.1f} ms" for name, row in list(rows.items())[:4])}


def set_tf32(on: bool, *, benchmark: bool = False) -> None:
    """Lets float32 products and convolutions run in TF32, as the configs do, or not.

    Args:
        on: whether to allow TF32.
        benchmark: cuDNN times its kernels for every new shape, seconds to minutes, and takes the fastest; off as in
            the configs (CUDNN_BENCHMARK).
    """
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
    torch.backends.cudnn.benchmark = benchmark
