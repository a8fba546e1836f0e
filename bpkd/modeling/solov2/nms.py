"""Suppression of duplicates: point NMS on the category maps, Matrix NMS on the masks.

Source: Wang et al., "SOLOv2", NeurIPS 2020, section 3.3; mmdetection 3.3.0 for the constants.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

KERNELS = ("gaussian", "linear")


def point_nms(scores: Tensor) -> Tensor:
    """Sets to 0 what is not the maximum of itself and its upper, left and upper-left neighbour.

    Args:
        scores: [N, K, S, S], not negative.
    """
    best = F.max_pool2d(scores, 2, stride=1, padding=1)[..., :-1, :-1]
    return scores * (best == scores)


def matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, *, kernel: str = "gaussian", sigma: float = 2.0
) -> Tensor:
    """Lowers the scores of masks that a better one of the same class covers.

    Args:
        masks: [n, ...] bool, sorted by falling score.
        labels: [n].
        scores: [n], falling.
        kernel: "gaussian" (exp(-sigma iou^2)) or "linear" (1 - iou).
        sigma: factor of the gaussian's exponent (the paper's sigma is its inverse).

    Returns:
        New scores [n], not sorted.

    Raises:
        ValueError: the kernel is unknown.
    """
    check_kernel(kernel)
    return decayed(masks, labels, scores, kernel == "gaussian", sigma)


def check_kernel(kernel: str) -> None:
    """Raises ValueError for a kernel that is unknown."""
    if kernel not in KERNELS:
        raise ValueError(f"MODEL.SOLOV2.NMS_KERNEL: expected one of {', '.join(KERNELS)}, got {kernel!r}.")


def decayed(masks: Tensor, labels: Tensor, scores: Tensor, gaussian: bool, sigma: float) -> Tensor:
    """`matrix_nms` as TorchScript takes it: without keywords and messages."""
    if len(masks) == 0:
        return scores
    flat = masks.flatten(1).float()
    overlap = flat @ flat.T
    area = overlap.diagonal()
    iou = overlap / (area[:, None] + area[None] - overlap).clamp(min=1)
    iou = (iou * (labels[:, None] == labels[None])).triu(1)
    covered = iou.amax(0)[:, None]  # of row i by a better one: it weakens what row i suppresses
    if gaussian:
        return scores * torch.exp(-sigma * (iou**2 - covered**2)).amin(0)
    # A mask that another one covers whole suppresses nothing.
    ratio = (1 - iou) / (1 - covered)
    return scores * ratio.nan_to_num(nan=1.0, posinf=float("inf")).amin(0)
