"""Task loss of dense networks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

DENOMINATORS = ("all", "valid")


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    denominator: str = "all",
    align_corners: bool = False,
) -> Tensor:
    """Pixel cross entropy at label size, summed and divided by the number of all (or of the valid) pixels.

    Args:
        logits: [N, K, h, w], any float type; computed in float32.
        target: [N, H, W] int64 labels, 0..K-1 or ``ignore_index``.
        ignore_index: label that costs nothing.
        denominator: "all" counts ignored pixels too (OpenMMLab, the paper's numbers), "valid" does not (torch).
        align_corners: of the bilinear resize from h x w to H x W.

    Returns:
        Scalar; an exact zero attached to the graph where nothing is valid.

    Raises:
        ValueError: ``denominator`` is unknown, or (on CPU) a label is out of range.

    Source: mmsegmentation 0.26.0, `CrossEntropyLoss` with its default `avg_non_ignore=False`.
    """
    if denominator not in DENOMINATORS:
        raise ValueError(f"LOSS_DENOMINATOR: expected one of {', '.join(DENOMINATORS)}, got {denominator!r}.")
    valid = target != ignore_index
    if target.device.type == "cpu":  # on a GPU this check would stall the queue in every step
        _check_labels(target[valid], logits.shape[1], ignore_index)
    logits = F.interpolate(logits.float(), size=target.shape[-2:], mode="bilinear", align_corners=align_corners)
    total = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="sum")
    count = valid.sum().clamp(min=1) if denominator == "valid" else target.numel()
    return total / count


def _check_labels(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"Labels: expected 0..{num_classes - 1} or {ignore_index}, got values from {low} to {high}. Set "
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES to the data set's number of classes, or map the ids "
            "(DATASETS.FOLDER.ID_MAP)."
        )
