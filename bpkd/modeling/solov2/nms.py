"""Non-maximum suppression: point NMS on the category maps, Matrix NMS on the masks.

Source: Wang et al., "SOLOv2", NeurIPS 2020, section 3.3; mmdetection 3.3.0 for the constants.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

KERNELS = ("gaussian", "linear")


def point_nms(scores: Tensor) -> Tensor:
    """Sets scores to 0 that are not the maximum of themselves and their upper, left and upper-left neighbours.

    Args:
        scores: Category scores [N, K, S, S], not negative.
    """
    best = F.max_pool2d(scores, 2, stride=1, padding=1)[..., :-1, :-1]
    return scores * (best == scores)


def matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, *, kernel: str = "gaussian", sigma: float = 2.0
) -> Tensor:
    """Lowers the scores of masks that overlap one of the same class with a higher score.

    Args:
        masks: Masks bool [n, ...], in descending order of scores.
        labels: Class [n] of each mask.
        scores: Scores [n] in descending order.
        kernel: Decay of the score by overlap, "gaussian" (exp(-sigma iou^2)) or "linear" (1 - iou).
        sigma: Factor in the exponent of "gaussian" (the inverse of the paper's sigma).

    Returns:
        New scores [n], not sorted.

    Raises:
        ValueError: the kernel is unknown.
    """
    check_kernel(kernel)
    return decayed(masks, labels, scores, kernel == "gaussian", sigma)


def check_kernel(kernel: str) -> None:
    """Raises ValueError for an unknown kernel of Matrix NMS."""
    if kernel not in KERNELS:
        raise ValueError(f"MODEL.SOLOV2.NMS_KERNEL: expected one of {', '.join(KERNELS)}, got {kernel!r}.")


def decayed(masks: Tensor, labels: Tensor, scores: Tensor, gaussian: bool, sigma: float) -> Tensor:
    """Computes `matrix_nms` in a form that TorchScript compiles, without keyword arguments and checks."""
    if len(masks) == 0:
        return scores
    flat = masks.flatten(1).float()
    overlap = flat @ flat.T
    area = overlap.diagonal()
    iou = overlap / (area[:, None] + area[None] - overlap).clamp(min=1)
    iou = (iou * (labels[:, None] == labels[None])).triu(1)
    covered = iou.amax(0)[:, None]  # largest overlap of mask i with a better one: it suppresses less
    if gaussian:
        return scores * torch.exp(-sigma * (iou**2 - covered**2)).amin(0)
    # A mask that a better one covers completely suppresses nothing.
    ratio = (1 - iou) / (1 - covered)
    return scores * ratio.nan_to_num(nan=1.0, posinf=float("inf")).amin(0)
