"""What is a class id: whole numbers in 0..K-1, and what people hand in instead of them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = Tensor | NDArray[np.integer[Any]]


def whole(value: Any, name: str, least: int | None = None) -> int:
    """Returns a whole number, of numpy and torch too.

    Args:
        value: what a caller gave.
        name: argument, for the message.
        least: smallest number that is accepted.

    Raises:
        ValueError: it is something else, such as 1.5 or True, or smaller.
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or (least is not None and found < least):
        bound = "" if least is None else f" of {least} or more"
        raise ValueError(f"{name}: expected a whole number{bound}, got {value!r}.")
    return found


def whole_ids(values: Labels, what: str) -> Tensor:
    """Returns ids as a tensor of integers; floats are ids only where they are whole numbers.

    Raises:
        ValueError: they are fractions, nan or complex.
    """
    x = values if isinstance(values, Tensor) else torch.as_tensor(_counted(np.require(values, requirements="W")))
    if x.is_complex():
        raise ValueError(f"{what}: expected integers, got {x.dtype}.")
    if x.is_floating_point():
        if not torch.equal(x, x.trunc()) or x.isinf().any():  # nan equals nothing
            found = not_whole(x.detach().cpu().double().numpy())
            raise ValueError(f"{what}: expected class ids, {found} Take argmax(1) of scores [N, K, H, W].")
        return x.long()
    if x.dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch has few functions for these
        return x.long()
    return x.to(torch.uint8) if x.dtype == torch.bool else x


def not_whole(values: NDArray[Any]) -> str:
    """Returns in words what an array holds in place of class ids.

    Args:
        values: floats that are not all whole numbers.
    """
    broken = int(values.size - np.isfinite(values).sum())
    if broken:
        return f"got {broken} values that are nan or infinite."
    low, high = float(values.min()), float(values.max())
    kind = "probabilities" if low >= 0 and high <= 1 else "scores"
    return f"got fractions between {low:.4g} and {high:.4g}: {kind} are no ids."


def shape_hint(p: Tensor, t: Tensor) -> str:
    """Returns what to change where a prediction is a stack of scores, or a map of another size."""
    if p.ndim > max(t.ndim, 2):
        axis = p.ndim - 3
        if p.shape[axis + 1 :] == t.shape[axis:] and p.shape[:axis] == t.shape[:axis]:
            return f" Scores of classes are no ids: take argmax({axis})."
        return " A prediction has one id per pixel: take the argmax over its classes."
    return " Resize predictions to the labels, by the nearest pixel." if p.ndim == t.ndim in (2, 3) else ""


def wrong_id_hint(wrong: NDArray[Any], num_classes: int, ignore_index: int, what: str) -> str:
    """Returns a sentence on ids that often are wrong for a known reason, with a blank before it; "" for others.

    Args:
        wrong: ids that are none of the classes.
        num_classes: number of classes K.
        ignore_index: label that takes no part.
        what: "prediction" or "label".
    """
    ids = {int(v) for v in wrong}
    hints = []
    if what == "prediction" and ignore_index in ids:
        hints.append(
            f" Predictions have no ignored pixels ({ignore_index}): where it is a class, map it "
            f"(--prediction-id-map {ignore_index}:{num_classes - 1}); or are predictions and labels swapped?"
        )
    if ids == {255} and num_classes == 2:
        hints.append(" Of masks of 0 and 255, map 255 to 1.")
    elif max(ids) > 999:
        hints.append(" Ids from 1000 on are those of instances (class x 1000 + number): give the maps of classes.")
    elif ids == {num_classes}:
        hints.append(" Ids begin at 0.")
    return "".join(hints)


def _counted(ids: NDArray[Any]) -> NDArray[Any]:
    """Returns ids in a type that torch can count with: it has few functions for unsigned ones of more than 8 bits.

    Booleans are made anew: those of Pillow are bytes of 255, which torch takes for ids.
    """
    if ids.dtype == np.bool_:
        clean: NDArray[Any] = np.not_equal(ids, 0)
        return clean
    return ids.astype(np.int64) if ids.dtype.kind == "u" and ids.dtype.itemsize > 1 else ids
