"""Checks of a backend's losses against plain PyTorch in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd.functional import (
    boundary_kd,
    channel_kd,
    pixel_kd,
    upsampled_cross_entropy,
)
from tests.conftest import TOLERANCE

LABELS = ["scene", "all edge", "no edge", "all ignored"]


def maps(shape: tuple[int, ...], scale: float = 3.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(shape[1])
    teacher = torch.randn(shape, generator=g) * scale
    return teacher + torch.randn(shape, generator=g) * scale / 2, teacher


def labels_of(kind: str, shape: tuple[int, ...]) -> Tensor:
    n, k, h, w = shape
    g = torch.Generator().manual_seed(1)
    if kind == "scene":
        small = torch.randint(0, k, (n, h // 2 + 1, w // 2 + 1), generator=g)
        labels = small.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, : 4 * h, : 4 * w].clone()
        labels[:, :3, : w // 2] = 255
        return labels
    if kind == "all edge":
        return torch.randint(0, k, (n, 4 * h, 4 * w), generator=g)
    return torch.full((n, 4 * h, 4 * w), 255 if kind == "all ignored" else k - 1)


def exact_divergence(student: Tensor, teacher: Tensor, dim: int, temperature: float) -> Tensor:
    p, q = (F.log_softmax(x / temperature, dim) for x in (teacher, student))
    return temperature**2 * (p.exp() * (p - q)).sum(dim)


def exact_boundary(student: Tensor, teacher: Tensor, mask: Tensor, o: dict) -> tuple[Tensor, Tensor]:
    """Both terms as the formula is written; give it float64."""
    filters = {"soft": (mask, 1 - mask), "hard": ((mask > 0).double(), (mask == 0).double()), "none": (1.0, 1.0)}
    on_edge, on_body = filters[o["pre_mask"]]
    kl = exact_divergence(student * on_edge, teacher * on_edge, 1, o["temperature"])
    cells, alpha = (mask > 0).sum((2, 3)), o["class_weight"].double()
    body = exact_divergence((student * on_body).flatten(2), (teacher * on_body).flatten(2), 2, o["temperature"])
    if o["normalizer"] == "average":
        return (alpha[:, None, None] * kl[:, None] * mask).mean(), body.mean()
    edge = (alpha / cells.clamp(min=1) * (kl[:, None] * mask).sum((2, 3))).sum(1)
    if o["normalizer"] == "classes":
        share = (alpha * (cells > 0)).sum(1)
        edge = edge / torch.where(share > 0, share, 1.0)
    return edge.mean(), body.mean()


def check(
    fast: Callable[[Tensor], Tensor],
    exact: Callable[[Tensor], Tensor],
    student: Tensor,
    scale: float = 1.0,
    rel: float = 1e-5,
) -> None:
    """Value and gradient to the table's float32 tolerance; both may be zero.

    A probability carries an absolute error near 1e-7, so a small loss of ``scale`` times the divergence is compared
    absolutely.
    """
    x, y = student.clone().requires_grad_(), student.double().requires_grad_()
    value, want = fast(x), exact(y)
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(want.detach()), rel=rel, abs=3e-6 * scale)
    (got,), (gradient,) = torch.autograd.grad(value, x), torch.autograd.grad(want, y)
    assert got.shape == student.shape
    apart = float((got.double() - gradient).norm())
    assert apart <= TOLERANCE[torch.float32] * float(gradient.norm()) + 1e-7 * scale


def check_plain_losses(shape: tuple[int, ...], temperature: float) -> None:
    student, teacher = maps(shape)
    t = teacher.double()
    valid = torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(0)) < 0.5
    check(
        lambda x: channel_kd(x, teacher, temperature),
        lambda x: exact_divergence(x.flatten(2), t.flatten(2), 2, temperature).mean(),
        student,
    )
    check(
        lambda x: pixel_kd(x, teacher, temperature),
        lambda x: exact_divergence(x, t, 1, temperature).mean(),
        student,
    )
    check(
        lambda x: pixel_kd(x, teacher, temperature, valid=valid),
        lambda x: (exact_divergence(x, t, 1, temperature) * valid).sum() / valid.sum().clamp(min=1),
        student,
    )


def check_weighted_terms(
    pair: tuple[Tensor, Tensor],
    mask: Tensor,
    weights: tuple[float, float],
    options: dict[str, Any],
    *,
    form: Any = None,
    rel: float = 1e-5,
) -> None:
    """BPKD weighted inside, where the gradient of the forward pass is right as it is, and outside.

    ``form`` is the mask as the weighted call takes it; None: the map.
    """
    (student, teacher), (edge, body) = pair, weights
    given = mask if form is None else form
    # The divergence enters the average with the mask's mean as factor.
    scale = edge * (float(mask.mean()) if options["normalizer"] == "average" else 1) + body

    def exact(x: Tensor) -> Tensor:
        terms = exact_boundary(x, teacher.double(), mask.double(), options)
        return edge * terms[0] + body * terms[1]

    def outside(x: Tensor) -> Tensor:
        terms = boundary_kd(x, teacher, mask, **options)
        return edge * terms[0] + body * terms[1]

    check(lambda x: sum(boundary_kd(x, teacher, given, **options, weights=weights)), exact, student, scale, rel)
    check(outside, exact, student, scale, rel)


def check_average_by_hand() -> None:
    """Two images, two classes, two positions: masked logits (ln 3, 0) against (0, 0) at one position, 0 elsewhere."""
    teacher, student, mask = torch.zeros(2, 2, 1, 2), torch.zeros(2, 2, 1, 2), torch.zeros(2, 2, 1, 2)
    teacher[0, 0, 0, 0] = 2 * math.log(3)
    mask[0, :, 0, 0] = torch.tensor([0.5, 1.0])
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    options: dict[str, Any] = {"class_weight": [2.0, 4.0], "normalizer": "average"}
    edge, body = boundary_kd(student, teacher, mask, **options, weights=(50.0, 20.0))
    assert float(edge) == pytest.approx(50 * (2 * 0.5 + 4 * 1.0) * kl / (2 * 2 * 2), rel=1e-6)
    assert float(body) == pytest.approx(20 * kl / (2 * 2), rel=1e-6)  # of the first class, whose filter is 1 - 0.5


def check_average_without_an_edge(pre_mask: str) -> None:
    """An exact zero, without a gradient; the body term is CWD then."""
    student, teacher = maps((2, 5, 4, 3))
    leaf = student.requires_grad_()
    options: dict[str, Any] = {"normalizer": "average", "pre_mask": pre_mask, "weights": (50.0, 20.0)}
    edge, body = boundary_kd(leaf, teacher, torch.zeros(2, 5, 4, 3), **options)
    assert float(edge.detach()) == 0
    assert not torch.autograd.grad(edge, leaf, retain_graph=True)[0].any()
    assert float(body.detach()) == pytest.approx(20 * float(channel_kd(student.detach(), teacher)), rel=1e-6)


def check_two_classes_far_below_zero(shape: tuple[int, ...]) -> None:
    """All classes have an edge: there is no zero class that the softmax could be shifted by."""
    student, teacher = (x - 300 for x in maps(shape))
    mask = torch.ones(shape)
    options = {"temperature": 1.0, "class_weight": torch.ones(2), "normalizer": "positions", "pre_mask": "soft"}
    check(
        lambda x: boundary_kd(x, teacher, mask, **options)[0],
        lambda x: exact_boundary(x, teacher.double(), mask.double(), options)[0],
        student,
    )


def check_cross_entropy(case: tuple, align_corners: bool, denominator: str, *, weighted: bool) -> None:
    shape, size = case
    logits, _ = maps(shape)
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, shape[1], (shape[0], *size), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.1] = 255
    weight = torch.linspace(0.5, 2, shape[1]) if weighted else None

    def exact(x: Tensor) -> Tensor:
        big = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
        double = None if weight is None else weight.double()
        if denominator == "valid":
            return F.cross_entropy(big, labels, double, ignore_index=255)
        return F.cross_entropy(big, labels, double, ignore_index=255, reduction="sum") / labels.numel()

    options = {"class_weight": weight, "denominator": denominator, "align_corners": align_corners}
    check(lambda x: upsampled_cross_entropy(x, labels, **options), exact, logits, rel=1e-6)


def check_cross_entropy_of_ignored_pixels(shape: tuple[int, ...]) -> None:
    logits = maps(shape)[0].requires_grad_()
    labels = torch.full((shape[0], 4 * shape[2], 4 * shape[3]), 255)
    for denominator in ("all", "valid"):
        loss = upsampled_cross_entropy(logits, labels, denominator=denominator)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert float(loss.detach()) == 0
        assert not gradient.any()
