"""From the loader's uint8 images and labels to one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FORMATS = ("RGB", "BGR")


def check_format(name: str) -> str:
    """Returns a colour order if it is known.

    Raises:
        ValueError: it is neither "RGB" nor "BGR".
    """
    if name not in FORMATS:
        raise ValueError(f"INPUT.FORMAT: expected one of {', '.join(FORMATS)}, got {name!r}.")
    return name


def stack_padded(tensors: Sequence[Tensor], size: tuple[int, int] | None, value: float, files: Sequence[str]) -> Tensor:
    """Pads [..., h, w] tensors at the right and the bottom and stacks them.

    Args:
        tensors: of equal leading shape.
        size: (height, width) to pad to; None: the largest of the batch.
        value: of the padding.
        files: names for the error.

    Raises:
        ValueError: a tensor is larger than ``size``.
    """
    if size is None:
        height, width = (max(int(t.shape[d]) for t in tensors) for d in (-2, -1))
    else:
        height, width = size
    rows = []
    for tensor, file in zip(tensors, files, strict=True):
        below, right = height - tensor.shape[-2], width - tensor.shape[-1]
        if below < 0 or right < 0:
            raise ValueError(
                f"{file}: expected a training crop of at most {height}x{width}, got "
                f"{tensor.shape[-2]}x{tensor.shape[-1]}. Crop it in the mapper (INPUT.CROP_SIZE)."
            )
        rows.append(F.pad(tensor, (0, right, 0, below), value=value) if below or right else tensor)
    return torch.stack(rows)


def normalised(image: Tensor, mean: Tensor, std: Tensor, *, swap: bool) -> Tensor:
    """Returns (image - mean) / std in float32, colour order reversed first if ``swap``."""
    image = image.to(mean.device, non_blocking=True).float()
    return ((image.flip(0) if swap else image) - mean) / std


def file_names(batch: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the name of every item for error messages."""
    return [str(item.get("file_name", f"item {i} of the batch")) for i, item in enumerate(batch)]
