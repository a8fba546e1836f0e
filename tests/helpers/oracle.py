"""Literal implementations of the formulas, to compare the fast ones with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """[N, K, H, W] float32; an ignored pixel is all zero."""
    ids = torch.where(labels == ignore_index, num_classes, labels.long())
    return F.one_hot(ids, num_classes + 1)[..., :num_classes].permute(0, 3, 1, 2).float().contiguous()


def literal_edge_mask(
    labels: Tensor, num_classes: int, kernel_size: int, size: tuple[int, int], ignore_mode: str = "opaque"
) -> Tensor:
    """One dilation and one erosion per class by stride-1 max pooling, then average pooling."""
    masks = one_hot(labels, num_classes)
    ignored = (labels == 255)[:, None]
    dilated = F.max_pool2d(masks, kernel_size, 1, kernel_size // 2)
    if ignore_mode == "opaque":
        edges = dilated + F.max_pool2d(-masks, kernel_size, 1, kernel_size // 2)
    else:
        seen_as_one = torch.where(ignored, 1.0, masks)
        edges = dilated + F.max_pool2d(-seen_as_one, kernel_size, 1, kernel_size // 2)
        edges = torch.where(ignored, 0.0, edges)
    return F.adaptive_avg_pool2d(edges, size)


def literal_boundary_kd(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: float, alpha: Tensor
) -> tuple[Tensor, Tensor]:
    """Edge and body term with the pixel's KL repeated over the classes, as the formula is written."""
    n, k, h, w = student.shape
    p = F.log_softmax(teacher * mask / temperature, 1)
    q = F.log_softmax(student * mask / temperature, 1)
    repeated = (p.exp() * (p - q)).sum(1, keepdim=True).repeat(1, k, 1, 1) * mask
    cells = (mask > 0).sum((2, 3)).clamp(min=1)
    edge = temperature**2 * (alpha * repeated.sum((2, 3)) / cells).sum(1).mean()
    flat = [(x * (1 - mask)).reshape(n * k, h * w) / temperature for x in (teacher, student)]
    p, q = (F.log_softmax(x, 1) for x in flat)
    return edge, temperature**2 / (n * k) * (p.exp() * (p - q)).sum()
