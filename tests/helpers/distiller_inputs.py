"""Outputs of a student and a teacher for tests of distillers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bpkd.distillers import DISTILLERS, Distiller
from bpkd.structures import SegOutput


def outputs(num_classes: int = 5, size: tuple[int, int] = (8, 8)) -> tuple[SegOutput, SegOutput, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, num_classes, *size, generator=g) * 3 for _ in range(2))
    target = torch.randint(0, num_classes, (2, 32, 32), generator=g)
    target[:, :5] = 255
    student.requires_grad_()
    # Features that depend on the logits: the gradient at the logits shows every term.
    return SegOutput(student, None, {"decode": student * 2}), SegOutput(teacher, None, {"decode": teacher * 2}), target


def build(name: str) -> Distiller:
    return DISTILLERS[name](num_classes=5, student_channels={"decode": 5}, teacher_channels={"decode": 5})


CHANNELS = {"student_channels": {"decode": 6}, "teacher_channels": {"decode": 10}}

SMALL_CIRKD = {
    "pixel_queue": 30,
    "region_queue": 10,
    "pixel_anchors": 40,
    "region_anchors": 20,
    "num_classes": 5,
    **CHANNELS,
}


def cirkd_outputs(n: int = 2, size: tuple[int, int] = (8, 8), seed: int = 0) -> tuple[SegOutput, SegOutput, Tensor]:
    g = torch.Generator().manual_seed(seed)
    maps = [torch.randn(n, c, *size, generator=g) for c in (5, 6, 5, 10)]
    maps[0].requires_grad_()
    maps[1].requires_grad_()
    target = torch.randint(0, 5, (n, 32, 32), generator=g)
    target[:, :5] = 255
    return SegOutput(maps[0], None, {"decode": maps[1]}), SegOutput(maps[2], None, {"decode": maps[3]}), target


def features(*size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, c, *size, generator=g).relu() for c in (6, 10))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def feature_outputs(size: tuple[int, int] = (7, 5), num_classes: int = 5) -> tuple[SegOutput, SegOutput, Tensor]:
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, num_classes, *size, generator=g) * 3 for _ in range(2)]
    decoded = [torch.randn(2, c, *size, generator=g).relu() for c in (6, 10)]
    target = torch.randint(0, num_classes, (2, 4 * size[0], 4 * size[1]), generator=g)
    student = SegOutput(maps[0].requires_grad_(), None, {"decode": decoded[0].requires_grad_()})
    return student, SegOutput(maps[1], None, {"decode": decoded[1]}), target


def stop_power_iterations(module: nn.Module) -> None:
    """Stops the power iterations of spectral norm, so that the critic's weights are the same in every call."""
    for name, part in module.named_modules():
        if name.endswith("parametrizations.weight"):
            part.eval()
