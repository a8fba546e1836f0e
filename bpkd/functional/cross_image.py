"""Losses on similarities between pixels of different images (CIRKD).

N images, A = h w positions, D channels, V rows, M anchors. The gradient is found together with the value, while a
similarity map is at hand: each map is made once and then dropped, however many images there are.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cross_image_pairs import LARGEST_EXPONENT, pairs_at_once


def pool_nodes(features: Tensor, max_nodes: int) -> Tensor:
    """Average-pools [N, D, h, w] by the smallest whole number that leaves at most ``max_nodes`` positions.

    Windows that stick out count the positions that they hold.

    Raises:
        ValueError: ``max_nodes`` is below 1.
    """
    if max_nodes < 1:
        raise ValueError(f"max_nodes: expected at least 1, got {max_nodes}.")
    h, w = features.shape[-2:]
    stride = 1
    while -(-h // stride) * -(-w // stride) > max_nodes:
        stride += 1
    return features if stride == 1 else F.avg_pool2d(features, stride, stride, ceil_mode=True)


def cross_image_kd(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 0.1,
    *,
    max_nodes: int = 8192,
    remote: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mean over ordered image pairs (i, j) and rows of KL(teacher's row || student's row).

    A row of pair (i, j) is the softmax over the positions of image j of the cosine similarities, divided by the
    temperature, to one position of image i; i = j included. There is no temperature^2.

    Args:
        student: features [N, Cs, h, w].
        teacher: features [N, Ct, h, w]; get no gradient.
        temperature: divisor tau of the similarities.
        max_nodes: larger maps are average-pooled to at most this many positions first.
        remote: student and teacher features of other processes' images, further columns j that get no gradient.

    Returns:
        Scalar float32.

    Raises:
        ValueError: batch or size differ.

    Source:
        Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR 2022:
        mini-batch-based pixel-to-pixel distillation.

    Example:
        >>> from bpkd.functional import cross_image_kd
        >>> features = torch.randn(2, 8, 4, 4)
        >>> print(f"{cross_image_kd(features, features).abs():.4f}")
        0.0000
        >>> bool(cross_image_kd(torch.randn(2, 3, 4, 4), features) > 0)  # channels may differ
        True
    """
    if student.ndim != 4 or student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            f"expected student [N, Cs, h, w] and teacher [N, Ct, h, w], got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}. Match sizes first (bpkd.distillers.adapters)."
        )
    with torch.autocast(student.device.type, enabled=False):
        s, t = (_unit_nodes(x, max_nodes) for x in (student, teacher.detach()))
        if not s.numel():
            return s.sum() * 0.0
        far = tuple(s.new_empty(0, *x.shape[1:]) for x in (s, t))
        if remote is not None:
            far = tuple(_unit_nodes(x.detach(), max_nodes) for x in remote)
        value: Tensor = _CrossImage.apply(s, t, *far, temperature)
        return value


def anchor_kd(
    student: Tensor,
    teacher: Tensor,
    anchors: Tensor,
    temperature: float = 0.1,
    kd_temperature: float = 1.0,
    *,
    valid: Tensor | None = None,
    rows_at_once: int = 8192,
) -> Tensor:
    """Mean over rows of Tk^2 KL(teacher || student) over the similarities to anchors, divided by tau and Tk.

    Args:
        student: [V, D] embeddings of pixels; normalised here.
        teacher: [V, D] embeddings of the same pixels; get no gradient; normalised here.
        anchors: [M, D] vectors of length 1; get no gradient.
        temperature: divisor tau of the similarities.
        kd_temperature: further divisor Tk, whose square is the loss's factor.
        valid: bool [V]; the mean is over its true rows. Default: all.
        rows_at_once: rows whose similarities are in memory at a time; changes nothing else.

    Returns:
        Scalar float32; without any row an exact zero attached to the student's graph.

    Raises:
        ValueError: shapes differ.

    Source:
        CIRKD (CVPR 2022): memory-based pixel-to-pixel and pixel-to-region distillation.

    Example:
        >>> from bpkd.functional import anchor_kd
        >>> anchors = torch.eye(2)
        >>> student, teacher = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> print(f"{anchor_kd(student, teacher, anchors, temperature=1.0):.4f}")
        0.1109
    """
    if student.shape != teacher.shape or student.shape[1:] != anchors.shape[1:]:
        raise ValueError(
            f"expected student and teacher [V, D] and anchors [M, D], got {tuple(student.shape)}, "
            f"{tuple(teacher.shape)} and {tuple(anchors.shape)}."
        )
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(student.float(), dim=1), F.normalize(teacher.detach().float(), dim=1)
        if valid is not None:  # rows of zeros are alike in student and teacher: neither value nor gradient
            s, t = (x.masked_fill(~valid[:, None], 0.0) for x in (s, t))
        value: Tensor = _Anchors.apply(s, t, anchors.detach().float(), temperature * kd_temperature, rows_at_once)
        value = value * kd_temperature**2
        return value if valid is None else value * (len(valid) / valid.sum().clamp(min=1))


def _unit_nodes(features: Tensor, max_nodes: int) -> Tensor:
    """[N, D, h, w] to unit rows [N, A, D] in float32; pooled before they are normalised."""
    return F.normalize(pool_nodes(features.float(), max_nodes), dim=1).flatten(2).transpose(1, 2)


class _CrossImage(torch.autograd.Function):
    """Mean over pairs and rows, of unit rows [N, A, D] and of other processes' [F, A, D]."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, far_student: Tensor, far_teacher: Tensor, temperature: float
    ) -> Tensor:
        n, columns = len(student), len(student) + len(far_student)
        by_pair = student.device.type == "cpu" or temperature * LARGEST_EXPONENT < 1
        compare = _pair_by_pair if by_pair else pairs_at_once
        total, slope = compare(student, teacher, far_student, far_teacher, temperature)
        count = student.shape[1] * n * columns
        ctx.save_for_backward(slope.div_(count))
        return total.div_(count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None, None, None


def _pair_by_pair(
    student: Tensor, teacher: Tensor, far_student: Tensor, far_teacher: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Returns the sum over pairs and rows, and its gradient by ``student``: the arguments of `_CrossImage`."""
    n = len(student)
    s_columns, t_columns = (*student.unbind(), *far_student.unbind()), (*teacher.unbind(), *far_teacher.unbind())
    total, slope = student.new_zeros(()), torch.zeros_like(student)
    for i in range(n):
        for j in range(i, len(s_columns)):
            maps = student[i] @ s_columns[j].T, teacher[i] @ t_columns[j].T
            # The transpose is the map of (j, i): its rows are these columns.
            value, map_slope = _rows_divergence(*maps, temperature, both=i < j < n)
            total += value
            slope[i].addmm_(map_slope, s_columns[j])
            if j < n:
                slope[j].addmm_(map_slope.T, student[i])
    return total, slope


class _Anchors(torch.autograd.Function):
    """Mean over rows, of unit rows [V, D] against fixed anchors [M, D]."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, anchors: Tensor, temperature: float, rows_at_once: int
    ) -> Tensor:
        total, slope, count = student.new_zeros(()), torch.zeros_like(student), max(len(student), 1)
        for start in range(0, len(student), rows_at_once):
            rows = slice(start, start + rows_at_once)
            value, map_slope = _rows_divergence(student[rows] @ anchors.T, teacher[rows] @ anchors.T, temperature)
            total += value
            torch.mm(map_slope, anchors, out=slope[rows])
        ctx.save_for_backward(slope.div_(count))
        return total.div_(count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None, None, None


def _rows_divergence(
    student: Tensor, teacher: Tensor, temperature: float, *, both: bool = False
) -> tuple[Tensor, Tensor]:
    """Sum over rows of KL(softmax(teacher / T) || softmax(student / T)), and its gradient by ``student``.

    Overwrites both maps.

    Args:
        student: [rows, columns] similarities.
        teacher: [rows, columns].
        temperature: T.
        both: add the sum over columns of the same divergence along these.
    """
    student, teacher = student.div_(temperature), teacher.div_(temperature)
    total, slope = _divergence_along(student, teacher, 1)
    if both:
        more, other_slope = _divergence_along(student, teacher, 0)
        total, slope = total + more, slope.add_(other_slope)
    return total, slope.div_(temperature)


def _divergence_along(student: Tensor, teacher: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    log_q, log_p = F.log_softmax(student, dim), F.log_softmax(teacher, dim)
    p = log_p.exp()
    total = log_p.sub_(log_q).mul_(p).sum()
    return total, log_q.exp_().sub_(p)
