"""Cross entropy at label size of logits at the network's own size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import fused, paths, triton_path

DENOMINATORS = ("all", "valid")


def upsampled_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    class_weight: Tensor | None = None,
    denominator: str = "all",
    align_corners: bool = False,
) -> Tensor:
    """Sum over pixels of the cross entropy of bilinearly resized logits, divided by the denominator.

    On the path "cpp" the resized logits [N, K, H, W] never exist: a strip of rows at a time is resized, and its
    gradient goes back to the small logits in the same pass. On "triton" they are made where they are read, once for the
    value and once for the gradient.

    Args:
        logits: [N, K, h, w], any float type; computed in float32.
        target: [N, H, W] integer labels, 0..K-1 or ``ignore_index``.
        ignore_index: label that costs nothing.
        class_weight: [K], a factor per class.
        denominator: "all" is the number of pixels, ignored ones too (OpenMMLab, the paper's numbers); "valid" is
            torch's: the number of the others, or the sum of their class weights.
        align_corners: of the bilinear resize from h x w to H x W.

    Returns:
        Scalar float32; an exact zero attached to the graph where nothing is valid.

    Raises:
        ValueError: ``denominator`` is unknown, shapes do not fit, or (path "cpp") a label is out of range. On "eager"
            torch raises IndexError then, on "triton" the loss is NaN.

    Source: mmsegmentation 0.26.0, `CrossEntropyLoss` with its default `avg_non_ignore=False`.
    """
    if denominator not in DENOMINATORS:
        raise ValueError(f"LOSS_DENOMINATOR: expected one of {', '.join(DENOMINATORS)}, got {denominator!r}.")
    if logits.ndim != 4 or target.ndim != 3 or len(logits) != len(target):
        raise ValueError(
            f"expected logits [N, K, h, w] and labels [N, H, W], got {tuple(logits.shape)} and {tuple(target.shape)}."
        )
    if class_weight is not None and class_weight.shape != logits.shape[1:2]:
        raise ValueError(f"class_weight: expected [{logits.shape[1]}], one per class, got {tuple(class_weight.shape)}.")
    with torch.autocast(logits.device.type, enabled=False):
        weight = None if class_weight is None else class_weight.detach().to(logits.device, torch.float32).contiguous()
        count = _count(target, ignore_index, denominator, weight)
        options = fused.CrossEntropyOptions(weight, count, ignore_index, align_corners)
        path = _chosen_path(logits, target)
        if path == "triton":
            from .triton_path import entropy

            return entropy.upsampled_cross_entropy(logits, target, options)
        values = logits.float()
        if path == "cpp":
            loss = fused.upsampled_cross_entropy(values, target, options)
            if loss.isnan():  # so it is where a label is out of range
                check_labels(target, logits.shape[1], ignore_index)
            return loss
        if not target.numel():
            return values.sum() * 0.0
        values = F.interpolate(values, size=target.shape[-2:], mode="bilinear", align_corners=align_corners)
        total = F.cross_entropy(values, target.long(), weight, ignore_index=ignore_index, reduction="sum")
        return total / count


def _chosen_path(logits: Tensor, target: Tensor) -> str:
    obstacles = {
        "cpp": fused.obstacle(logits, target) or ("" if target.numel() else "there are no labels"),
        "triton": triton_path.map_obstacle(logits) or triton_path.obstacle(target),
    }
    types = (logits.dtype, target.dtype)
    return paths.choose("upsampled_cross_entropy", logits.device, obstacles, auto=("cpp", "triton"), types=types)


def _count(target: Tensor, ignore_index: int, denominator: str, weight: Tensor | None) -> Tensor | int:
    if denominator == "all":
        return target.numel()
    valid = target != ignore_index
    if weight is None:
        return valid.sum().clamp(min=1)
    total = weight[target.long().masked_fill(~valid, 0)].mul(valid).sum()
    return torch.where(total > 0, total, 1.0)


def check_labels(target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raises where a label is neither a class nor ignored; on a GPU it would stall the queue.

    Raises:
        ValueError: a label is out of range; the message names the range that was found.
    """
    labels = target[target != ignore_index]
    if labels.numel() == 0:
        return
    low, high = (int(x) for x in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"Labels: expected 0..{num_classes - 1} or {ignore_index}, got values from {low} to {high}. Set "
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES to the data set's number of classes, or map the ids "
            "(DATASETS.FOLDER.ID_MAP)."
        )
