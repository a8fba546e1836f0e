"""What weights expect of an image: mean, standard deviation, colour order, as far as somebody states them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """What weights expect of an image, in 0..255; empty where it is not stated."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str
    """"RGB" or "BGR"; "" where it is not stated."""

    where: str = field(default="", compare=False)
    """Place of the statement, for messages."""

    def __str__(self) -> str:
        numbers = [f"{name} {list(v)}" for name, v in (("mean", self.mean), ("std", self.std)) if v]
        words = [*([self.order] if self.order else []), *numbers]
        return ", ".join(words) + (", of values 0..255" if numbers else "")

    def same_as(self, other: Pixels) -> bool:
        """Returns whether two statements mean the same where both are made, rounded numbers of one source included."""
        if self.order and other.order and self.order != other.order:
            return False
        pairs = ((self.mean, other.mean, 0.5), (self.std, other.std, 0.1))
        return all(
            len(a) == len(b)
            and all(math.isclose(x, y, rel_tol=0.005, abs_tol=least) for x, y in zip(a, b, strict=True))
            for a, b, least in pairs
            if a and b
        )


# torchvision and timm state the same numbers over 255.
IMAGENET_PIXELS = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB")
# Of the networks that Detectron1 and its predecessors converted from Caffe.
CAFFE_PIXELS = Pixels((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "BGR")


def pixels_of(mean: Any, std: Any, order: Any, where: str, scale: float = 0.0) -> Pixels | None:
    """Returns a statement of some lists of numbers and a colour order; None without a mean.

    Args:
        mean: lists, tensors or arrays of one number per channel; anything else states nothing.
        std: as mean.
        order: "RGB" or "BGR"; anything else states nothing.
        where: place of the statement, for messages.
        scale: factor to values of 0..255; 0: 255 where all numbers lie in 0..1, which would be black images.
    """
    mean, std = numbers(mean), numbers(std)
    if mean and std and len(mean) != len(std):
        return None
    if not scale:
        if not any(mean) and all(v == 1 for v in std):
            mean = std = ()  # 0 and 1 mean "not normalised", of values 0..1 or 0..255
        scale = 255.0 if all(abs(v) <= 1 for v in (*mean, *std)) else 1.0
    if scale != 1:
        mean, std = (tuple(round(v * scale, 6) for v in values) for values in (mean, std))
    return Pixels(mean, std, order if order in ("RGB", "BGR") else "", where) if mean else None


def numbers(value: Any) -> tuple[float, ...]:
    """Returns one finite number per channel of a list, tensor or array, also of the shape [3, 1, 1]; else nothing."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist() if math.prod(value.shape) == 3 else []
    if not isinstance(value, list | tuple) or len(value) > 16:
        return ()
    flat = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in value]
    flat = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in flat]
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in flat)
    return tuple(float(v) for v in flat) if plain else ()
