"""Cross entropy at label size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd.functional.structures import CrossEntropyOptions


def upsampled_cross_entropy(logits: Tensor, target: Tensor, options: CrossEntropyOptions) -> Tensor:
    """See ``bpkd.functional.upsampled_cross_entropy``."""
    values = logits.float()
    if not target.numel():
        return values.sum() * 0.0
    values = F.interpolate(values, size=target.shape[-2:], mode="bilinear", align_corners=options.align_corners)
    total = F.cross_entropy(values, target.long(), options.weight, ignore_index=options.ignore_index, reduction="sum")
    return total / options.count


def pixel_count(target: Tensor, ignore_index: int, denominator: str, weight: Tensor | None) -> Tensor | int:
    """Divisor of the cross entropy's sum over pixels.

    Args:
        target: [N, H, W] labels.
        ignore_index: label of pixels whose loss is 0.
        denominator: "all": number of pixels; "valid": number of the pixels that are not ignored, or the sum of their
            class weights.
        weight: float32 [K], factor per class; None: 1.
    """
    if denominator == "all":
        return target.numel()
    valid = target != ignore_index
    if weight is None:
        return valid.sum().clamp(min=1)
    total = weight[target.long().masked_fill(~valid, 0)].mul(valid).sum()
    return torch.where(total > 0, total, 1.0)
