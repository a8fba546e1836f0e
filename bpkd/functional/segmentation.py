"""Cross entropy at label size of logits at the network's own size."""

from __future__ import annotations

import torch
from torch import Tensor

from .backends import dispatch
from .reference.cross_entropy import pixel_count
from .reference.labels import check_labels
from .structures import CrossEntropyOptions

__all__ = ["DENOMINATORS", "check_labels", "upsampled_cross_entropy"]
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

    On the backend "cpp" the resized logits [N, K, H, W] never exist: a strip of rows at a time is resized, and its
    gradient goes back to the small logits in the same pass. On "triton" they are made where they are read, once for the
    value and once for the gradient.

    Args:
        logits: [N, K, h, w], any float type; computed in float32.
        target: [N, H, W] integer labels, 0..K-1 or ``ignore_index``.
        ignore_index: label of pixels whose loss is 0.
        class_weight: [K], a factor per class.
        denominator: "all" is the number of pixels, ignored ones too (OpenMMLab, the paper's numbers); "valid" is
            torch's: the number of the others, or the sum of their class weights.
        align_corners: convention of the bilinear resize from h x w to H x W, as in ``torch.nn.functional.interpolate``.

    Returns:
        Scalar float32; an exact zero attached to the graph where nothing is valid.

    Raises:
        ValueError: ``denominator`` is unknown, shapes do not fit, or (backend "cpp") a label is out of range. On
            "eager" torch raises IndexError then, on "triton" the loss is NaN.

    Source:
        mmsegmentation 0.26.0, ``CrossEntropyLoss`` with its default ``avg_non_ignore=False``.

    Example:
        >>> from bpkd.functional import upsampled_cross_entropy
        >>> logits, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 8, 8, dtype=torch.long)
        >>> print(f"{upsampled_cross_entropy(logits, target):.4f}")
        0.6931
        >>> target[:, :4] = 255
        >>> print(f"{upsampled_cross_entropy(logits, target):.4f}")
        0.3466
        >>> print(f"{upsampled_cross_entropy(logits, target, denominator='valid'):.4f}")
        0.6931
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
        count = pixel_count(target, ignore_index, denominator, weight)
        options = CrossEntropyOptions(weight, count, ignore_index, align_corners)
        backend = dispatch.loss_backend("upsampled_cross_entropy", logits, target)
        return backend.upsampled_cross_entropy(logits, target, options)
