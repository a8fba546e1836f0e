"""Task loss of dense networks."""

from __future__ import annotations

from torch import Tensor

from bpkd.functional.segmentation import check_labels, upsampled_cross_entropy


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
        denominator: "all" or "valid", see ``upsampled_cross_entropy``.
        align_corners: of the bilinear resize from h x w to H x W.

    Returns:
        Scalar; an exact zero attached to the graph where nothing is valid.

    Raises:
        ValueError: ``denominator`` is unknown, or (on CPU) a label is out of range.
    """
    if target.device.type == "cpu":  # on a GPU this check would stall the queue in every step
        check_labels(target, logits.shape[1], ignore_index)
    return upsampled_cross_entropy(
        logits, target, ignore_index=ignore_index, denominator=denominator, align_corners=align_corners
    )
