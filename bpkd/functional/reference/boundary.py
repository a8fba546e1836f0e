"""Edge and body term of BPKD."""

from __future__ import annotations

import torch
from torch import Tensor

from bpkd.functional.structures import BoundaryOptions, EdgeMask, dense_edges

from .divergence import channel_kd, class_divergence


def boundary_kd(
    student: Tensor, teacher: Tensor, edges: EdgeMask, options: BoundaryOptions, *, weights: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """See ``bpkd.functional.boundary_kd``."""
    student, teacher = student.float(), teacher.detach().float()
    mask = dense_edges(edges, student.device)
    edge = edge_term(student, teacher, mask, options)
    body = channel_kd(*body_logits(student, teacher, mask, options.pre_mask), options.temperature)
    return weights[0] * edge, weights[1] * body


def edge_term(
    student: Tensor, teacher: Tensor, mask: Tensor, options: BoundaryOptions, *, independent: bool = False
) -> Tensor:
    """Edge term without its weight.

    Args:
        student: float32 [N, K, h, w] logits.
        teacher: float32 [N, K, h, w] logits.
        mask: float32 [N, K, h, w], or [N, 1, h, w] for one map that all classes share.
        options: temperature, class weights, filter and divisor.
        independent: True: a sigmoid per class in place of the softmax.

    Returns:
        Scalar.
    """
    factor = None if options.pre_mask == "none" else mask if options.pre_mask == "soft" else (mask > 0).float()
    filtered = _filtered(student, factor), _filtered(teacher, factor)
    per_position = class_divergence(*filtered, options.temperature, independent=independent)
    return _edge_sum(per_position, mask, options.alpha, options.normalizer) * options.temperature**2


def body_logits(
    student: Tensor, teacher: Tensor, mask: Tensor, pre_mask: str, valid: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Student's and teacher's logits after the body term's filter.

    Args:
        student: float32 [N, K, h, w] logits.
        teacher: float32 [N, K, h, w] logits.
        mask: float32 edge mask.
        pre_mask: "soft", "hard" or "none".
        valid: [N, 1, h, w] in [0, 1], share of each cell that is no padding; 1.0: all of it.
    """
    factor = None
    if pre_mask == "soft":
        factor = (valid - mask).clamp(min=0)
    elif pre_mask == "hard":
        factor = ((mask == 0) & (valid > 0)).float()
    return _filtered(student, factor), _filtered(teacher, factor)


def _filtered(logits: Tensor, factor: Tensor | None) -> Tensor:
    return logits if factor is None else logits * factor


def _counts(mask: Tensor, normalizer: str) -> Tensor:
    """n_c of each image and class, [N, K]; 0 where a class has no edge."""
    if normalizer == "average":  # filled on the device: a copy to a GPU would wait for it
        return mask.new_full(mask.shape[:2], mask.shape[1:].numel())
    return mask.sum((2, 3)) if normalizer == "weights" else (mask > 0).sum((2, 3))


def _edge_sum(per_position: Tensor, mask: Tensor, alpha: Tensor, normalizer: str) -> Tensor:
    counts = _counts(mask, normalizer)
    weight = alpha / counts.clamp(min=1)
    # The post-mask filter, summed over classes before it meets the KL. As a product it needs no copy per class, but a
    # GPU may round a product to TF32.
    factors = weight[:, :, None, None]
    per_cell = (mask * factors).sum(1) if mask.is_cuda else torch.einsum("nchw,nc->nhw", mask, weight)
    total = (per_position * per_cell).sum((1, 2))
    if normalizer in ("classes", "weights"):
        share = (alpha * (counts > 0)).sum(1)
        total = total / torch.where(share > 0, share, 1.0)
    return total.mean() if len(total) else total.sum()
