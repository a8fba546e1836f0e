"""Losses of SOLOv2: focal loss of the cells' categories, dice loss of the masks of pairs of cell and instance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from bpkd.structures import GridTargets, SOLOv2Outputs

NORMALIZERS = ("pairs", "per_cell")


def category_loss(logits: Sequence[Tensor], targets: GridTargets, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss over images, levels, cells and classes, divided by the number of positive cells plus one.

    Args:
        logits: Category logits [N, K, S, S] of each level.
        targets: Assignment of instances to the cells of these levels.
        alpha: Weight of positives in the focal loss.
        gamma: Exponent of the modulating factor.

    Source: Lin et al., "Focal Loss", ICCV 2017, equation 5.
    """
    num_classes = logits[0].shape[1]
    scores = torch.cat([level.flatten(2) for level in logits], 2)
    labels = torch.cat([level.labels.flatten(1) for level in targets.levels], 1)
    classes = torch.arange(num_classes, device=labels.device)
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores if scores.dtype == torch.float64 else scores.float()
        wanted = (labels[:, None] == classes[:, None]).to(scores.dtype)
        total = sigmoid_focal_loss(scores, wanted, alpha=alpha, gamma=gamma, reduction="sum")
    return total / (1 + (labels != num_classes).sum())


def pair_kernels(kernels: Sequence[Tensor], targets: GridTargets) -> tuple[Tensor, Tensor, Tensor]:
    """Collects the kernels of all pairs of all levels, image after image.

    Args:
        kernels: Mask kernels [N, E, S, S] of each level.
        targets: Assignment of instances to the cells of these levels.

    Returns:
        Kernels [P, E], and index [P] of the image and [P] of the instance of each, sorted by image and level.
    """
    rows = [k.flatten(2)[t.image, :, t.cell] for k, t in zip(kernels, targets.levels, strict=True)]
    image = torch.cat([t.image for t in targets.levels])
    order = image.argsort(stable=True)
    instance = torch.cat([t.instance for t in targets.levels])
    return torch.cat(rows)[order], image[order], instance[order]


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice loss of each mask: 1 - 2 sum(p t) / (sum p^2 + sum t^2 + 0.002), p the sigmoid of the logits.

    Args:
        logits: Mask logits [P, ...].
        masks: Target masks [P, ...], bool or of 0 and 1.

    Returns:
        Loss [P] of each mask.
    """
    p, t = logits.flatten(1).sigmoid(), masks.flatten(1).to(logits.dtype)
    overlap = (p * t).sum(1)
    return 1 - 2 * overlap / ((p * p).sum(1) + 0.001 + t.sum(1) + 0.001)


def mask_loss(outputs: SOLOv2Outputs, targets: GridTargets, *, normalizer: str = "pairs") -> Tensor:
    """Dice loss of the masks of the positive cells' kernels, at stride 4.

    Args:
        outputs: Raw outputs of the network.
        targets: Assignment of the batch's instances to cells.
        normalizer: Divisor of the sum over pairs: "pairs": number of pairs (the authors' form); "per_cell": number of
            distinct positive cells (mmdetection's).

    Returns:
        A scalar; 0, attached to the graph of kernels and mask features, if there is no pair.

    Raises:
        ValueError: the normalizer is unknown.
    """
    if normalizer not in NORMALIZERS:
        raise ValueError(f"MODEL.SOLOV2.NORMALIZER: expected one of {', '.join(NORMALIZERS)}, got {normalizer!r}.")
    kernels, image, instance = pair_kernels(outputs.kernels, targets)
    if not len(kernels):
        return 0 * (outputs.mask_features.sum() + sum(level.sum() for level in outputs.kernels))
    counts = torch.bincount(image, minlength=len(outputs.mask_features)).tolist()
    with torch.autocast(kernels.device.type, enabled=False):
        wide = kernels.dtype if kernels.dtype == torch.float64 else torch.float32
        rows = [
            dice(own.to(wide) @ features.flatten(1).to(wide), targets.quarter_masks[which])
            for own, which, features in zip(
                kernels.split(counts), instance.split(counts), outputs.mask_features, strict=True
            )
            if len(own)
        ]
    total = torch.cat(rows)
    if normalizer == "pairs":
        return total.mean()
    background = outputs.category_logits[0].shape[1]
    return total.sum() / sum((level.labels != background).sum() for level in targets.levels)
