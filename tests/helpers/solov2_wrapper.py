"""A tiny SOLOv2 student with its teacher in the distillation wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model

from bpkd.modeling import InstanceDistiller
from tests.helpers.tiny_solov2 import save_teacher, tiny_cfg

NODE = "DISTILL.INSTANCE."


def wrapper(folder: Path, method: str, *opts: Any, teacher: list[str] | None = None) -> InstanceDistiller:
    named = save_teacher(folder) if teacher is None else teacher
    torch.manual_seed(0)
    wrap = ["MODEL.META_ARCHITECTURE", "InstanceDistiller", "DISTILL.METHOD", method, "DISTILL.BPKD.PRESET"]
    return build_model(tiny_cfg(*named, *wrap, "instances", *opts)).train()
