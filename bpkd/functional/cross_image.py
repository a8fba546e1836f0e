"""Relations between pixels of different images: student and teacher see the same similarities (CIRKD).

N images, A = h w positions, D channels, V rows, M anchors. Each similarity map is recomputed in the backward pass, so
that one is alive at a time, however many images there are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .divergence import kl_divergence


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
        student: [N, Cs, h, w] features.
        teacher: [N, Ct, h, w] features; gets no gradient.
        temperature: tau.
        max_nodes: larger maps are average-pooled to at most this many positions first.
        remote: student and teacher features of other processes' images, further columns j that get no gradient.

    Returns:
        Scalar float32.

    Raises:
        ValueError: batch or size differ.

    Source:
        Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR 2022:
        mini-batch-based pixel-to-pixel distillation.
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
        s_rows, t_rows = s.unbind(0), t.unbind(0)
        s_columns, t_columns = s_rows, t_rows
        if remote is not None:
            far_s, far_t = (_unit_nodes(x.detach(), max_nodes).unbind(0) for x in remote)
            s_columns, t_columns = s_rows + far_s, t_rows + far_t
        total = s.new_zeros(())
        for s_i, t_i in zip(s_rows, t_rows, strict=True):
            for s_j, t_j in zip(s_columns, t_columns, strict=True):
                total = total + _similarity_kl(s_i, s_j, t_i, t_j, temperature) / len(s_i)
        return total / (len(s_rows) * len(s_columns))


def anchor_kd(
    student: Tensor,
    teacher: Tensor,
    anchors: Tensor,
    temperature: float = 0.1,
    kd_temperature: float = 1.0,
    *,
    rows_at_once: int = 8192,
) -> Tensor:
    """Mean over rows of Tk^2 KL(teacher || student) over the similarities to anchors, divided by tau and Tk.

    Args:
        student: [V, D] embeddings of pixels; normalised here.
        teacher: [V, D]; gets no gradient; normalised here.
        anchors: [M, D] unit rows; get no gradient.
        temperature: tau of the similarities.
        kd_temperature: Tk.
        rows_at_once: bounds the memory; changes nothing else.

    Returns:
        Scalar float32; without any row an exact zero attached to the student's graph.

    Raises:
        ValueError: shapes differ.

    Source:
        CIRKD (CVPR 2022): memory-based pixel-to-pixel and pixel-to-region distillation.
    """
    if student.shape != teacher.shape or student.shape[1:] != anchors.shape[1:]:
        raise ValueError(
            f"expected student and teacher [V, D] and anchors [M, D], got {tuple(student.shape)}, "
            f"{tuple(teacher.shape)} and {tuple(anchors.shape)}."
        )
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(student.float(), dim=1), F.normalize(teacher.detach().float(), dim=1)
        total = s.sum() * 0.0
        fixed = anchors.detach().float()
        for s_rows, t_rows in zip(torch.split(s, rows_at_once), torch.split(t, rows_at_once), strict=True):
            total = total + _similarity_kl(s_rows, fixed, t_rows, fixed, temperature * kd_temperature)
        return total / max(len(s), 1) * kd_temperature**2


def _unit_nodes(features: Tensor, max_nodes: int) -> Tensor:
    """[N, D, h, w] to unit rows [N, A, D] in float32; pooled before they are normalised."""
    return F.normalize(pool_nodes(features.float(), max_nodes), dim=1).flatten(2).transpose(1, 2)


def _similarity_kl(s_rows: Tensor, s_columns: Tensor, t_rows: Tensor, t_columns: Tensor, temperature: float) -> Tensor:
    """Sum over rows of the KL between both sides' similarity rows; the maps are recomputed in the backward pass."""

    def compute(s_rows: Tensor, s_columns: Tensor) -> Tensor:
        student, teacher = s_rows @ s_columns.T, t_rows @ t_columns.T
        return kl_divergence(student / temperature, teacher / temperature, 1).sum()

    value: Tensor = checkpoint(compute, s_rows, s_columns, use_reentrant=False, preserve_rng_state=False)
    return value
