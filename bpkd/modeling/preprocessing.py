"""Turns the loader's uint8 images and labels into one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from bpkd.transfer import send

FORMATS = ("RGB", "BGR")


def check_format(name: str) -> str:
    """Checks a colour order and returns it.

    Raises:
        ValueError: the colour order is neither "RGB" nor "BGR".
    """
    if name not in FORMATS:
        raise ValueError(f"INPUT.FORMAT: expected one of {', '.join(FORMATS)}, got {name!r}.")
    return name


def stack_padded(tensors: Sequence[Tensor], size: tuple[int, int] | None, value: float, files: Sequence[str]) -> Tensor:
    """Pads [..., h, w] tensors at the right and the bottom and stacks them.

    Args:
        tensors: Tensors of equal leading shape.
        size: (height, width) to pad to; None: the largest of the batch.
        value: Value of the padding.
        files: Names of the files, for messages.

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


class Normalised(Protocol):
    """A network with pixel statistics and a colour order."""

    pixel_mean: Tensor
    pixel_std: Tensor
    input_format: str
    source_format: str


def normalised(batch: Sequence[dict[str, Any]], network: Normalised, key: str = "image") -> list[Tensor]:
    """Returns every item's image in the network's colour order, normalised to (pixel - mean) / std in float32.

    Args:
        batch: Items with uint8 images [3, h, w]; their colour order is the item's ``image_format``, else the network's
            ``source_format``.
        network: Network with its pixel statistics and colour order.
        key: Key of the image in an item.
    """
    rows = []
    for item in batch:
        image = send(item[key], network.pixel_mean.device).float()
        if item.get("image_format", network.source_format) != network.input_format:
            image = image.flip(0)
        rows.append((image - network.pixel_mean) / network.pixel_std)
    return rows


def file_names(batch: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the file name of every item, for error messages."""
    return [str(item.get("file_name", f"item {i} of the batch")) for i, item in enumerate(batch)]
