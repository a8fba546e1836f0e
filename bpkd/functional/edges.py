"""Edge maps of label maps, exact and without one dilation per class.

Dilation of class c's mask is 1 where the window holds c, erosion is 1 where it holds nothing else. So their
difference is 1 exactly where the window holds c and a second label: it is read off the *set* of labels per window,
a bit word that two runs of OR (rows, columns) give for all classes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

# Classes per int32 word; the next bit stands for every label outside the group.
_GROUP = 30
IGNORE_MODES = ("opaque", "transparent")


def window_side(kernel_size: int, iterations: int = 1) -> int:
    """Side of the one square window that equals ``iterations`` passes of a ``kernel_size`` window.

    Raises:
        ValueError: ``kernel_size`` is not odd and positive, or ``iterations`` is below 1.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"kernel_size: expected an odd positive number of pixels, got {kernel_size}. Use {kernel_size + 1}."
        )
    if iterations < 1:
        raise ValueError(f"iterations: expected at least 1, got {iterations}.")
    return iterations * (kernel_size - 1) + 1


def window_reduce(x: Tensor, side: int, op: Callable[[Tensor, Tensor], Tensor], border: int) -> Tensor:
    """Reduces each side x side window of the last two dimensions with an idempotent operation.

    Windows of width 1, 2, 4, ... are combined, so the cost is log2(side) operations per axis.

    Args:
        x: [..., H, W].
        side: odd window side in pixels.
        op: elementwise and idempotent: torch.minimum, torch.maximum, torch.bitwise_or.
        border: value that stands outside the image, the identity of ``op``.

    Returns:
        [..., H, W].
    """
    x = F.pad(x, [side // 2] * 4, value=border)
    for dim in (-1, -2):
        width = 1
        while 2 * width <= side:
            n = x.shape[dim] - width
            x = op(x.narrow(dim, 0, n), x.narrow(dim, width, n))
            width *= 2
        if side > width:
            n = x.shape[dim] - (side - width)
            x = op(x.narrow(dim, 0, n), x.narrow(dim, side - width, n))
    return x


def edge_band(
    labels: Tensor,
    kernel_size: int,
    *,
    iterations: int = 1,
    ignore_index: int = 255,
    ignore_mode: str = "transparent",
) -> Tensor:
    """Class-agnostic edge band: pixels whose window holds more than one label.

    Args:
        labels: [N, H, W] or [H, W] integers.
        kernel_size: odd window side in pixels; 2w+1 gives the trimap band of half-width w.
        iterations: passes of the window.
        ignore_index: label that means "ignore".
        ignore_mode: "transparent": ignored pixels are no label and in no band; "opaque": they are one more label.

    Returns:
        bool, the shape of ``labels``.

    Raises:
        ValueError: a window or mode that does not exist.
    """
    side = window_side(kernel_size, iterations)
    _check_mode(ignore_mode)
    valid = labels != ignore_index if ignore_mode == "transparent" else torch.ones_like(labels, dtype=torch.bool)
    return mixed_windows(labels, valid, side)


def mixed_windows(labels: Tensor, valid: Tensor, side: int) -> Tensor:
    """Valid pixels whose side x side window holds more than one valid label; beyond the image there is none.

    Args:
        labels: [..., H, W] integers.
        valid: bool, same shape; the other pixels have no label.
        side: odd window side in pixels.

    Returns:
        bool, same shape.
    """
    low, high, least, most = _filled(labels, valid)
    low = window_reduce(low, side, torch.minimum, most)
    high = window_reduce(high, side, torch.maximum, least)
    # A valid pixel lies in its own window, so low <= high there; equal means one label.
    return (low < high) & valid


def _filled(labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """Returns the labels with the largest and with the least number where not ``valid``, and these two numbers."""
    if labels.dtype == torch.uint8:  # four times as many per vector instruction, and bits fill ten times as fast
        ignored = valid.view(torch.uint8) - 1  # 255 where not valid, else 0
        return labels | ignored, labels & ~ignored, 0, 255
    x = labels.to(torch.int32)
    least, most = torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max
    return x.masked_fill(~valid, most), x.masked_fill(~valid, least), least, most


@overload
def class_edge_mask(
    labels: Tensor,
    num_classes: int,
    kernel_size: int,
    size: tuple[int, int] | None = None,
    *,
    iterations: int = 1,
    ignore_index: int = 255,
    ignore_mode: str = "opaque",
) -> Tensor: ...


@overload
def class_edge_mask(
    labels: Tensor,
    num_classes: int,
    kernel_size: int,
    size: list[tuple[int, int]],
    *,
    iterations: int = 1,
    ignore_index: int = 255,
    ignore_mode: str = "opaque",
) -> list[Tensor]: ...


def class_edge_mask(
    labels: Tensor,
    num_classes: int,
    kernel_size: int,
    size: tuple[int, int] | list[tuple[int, int]] | None = None,
    *,
    iterations: int = 1,
    ignore_index: int = 255,
    ignore_mode: str = "opaque",
) -> Tensor | list[Tensor]:
    """Per-class edge maps M_E: dilation minus erosion of each class's mask, average-pooled.

    Args:
        labels: [N, H, W] integers in 0..num_classes-1 or ``ignore_index``.
        num_classes: K.
        kernel_size: odd side of the square window in label pixels, the edge width. Pixels outside the image take
            no part, so the image's border is no edge.
        size: (h, w) to pool to, any ratio (adaptive average pooling's bins); None keeps (H, W); a list of sizes
            gives a list of maps from one pass over the labels.
        iterations: m passes of a window of side q equal one window of side m (q - 1) + 1 (the supplement's
            ``compute_iters``).
        ignore_index: label that means "ignore"; it has no map of its own.
        ignore_mode: "opaque" (the literal reading): an ignored pixel is "another label" to its neighbours, so a
            class that touches an ignored region has an edge there, on both sides. "transparent": ignored pixels
            neither make an edge nor are one.

    Returns:
        float32 [N, K, h, w] in [0, 1]: the share of each cell's pixels that are edge pixels of the class.

    Raises:
        ValueError: wrong rank, window or mode, or (labels on CPU) a label out of range.

    Source:
        Liu et al., "BPKD: Boundary Privileged Knowledge Distillation for Semantic Segmentation", WACV 2024, edge
        detection module; dilation and erosion with flat square windows.
    """
    side = window_side(kernel_size, iterations)
    _check_mode(ignore_mode)
    if labels.ndim != 3:
        raise ValueError(f"labels: expected [N, H, W], got {tuple(labels.shape)}.")
    if labels.device.type == "cpu":
        _check_range(labels, num_classes, ignore_index)
    sizes = size if isinstance(size, list) else [size or (labels.shape[1], labels.shape[2])]
    out = [labels.new_zeros((len(labels), num_classes, *s), dtype=torch.float32) for s in sizes]
    for group, found in _edge_words(labels, num_classes, side, ignore_index, ignore_mode):
        for target in out:
            _pool_into(target, found, group)
    return out if isinstance(size, list) else out[0]


def _edge_words(
    labels: Tensor, num_classes: int, side: int, ignore_index: int, ignore_mode: str
) -> Iterator[tuple[list[int], Tensor]]:
    """Yields (classes, int32 [N, H, W]): bit b is set where the pixel is an edge pixel of class ``classes[b]``."""
    ignored = labels == ignore_index
    index = labels.long().masked_fill(ignored, num_classes)
    classes = list(range(num_classes))
    if labels.device.type == "cpu":  # a look at the labels is free here and leaves few classes
        counts = torch.bincount(index.flatten(), minlength=num_classes + 1)
        classes = counts[:num_classes].nonzero().flatten().tolist()
    for start in range(0, len(classes), _GROUP):
        group = classes[start : start + _GROUP]
        # One bit per class of the group; every other label, and "void" in opaque mode, shares the next bit.
        bits = dict(zip(group, range(_GROUP), strict=False))
        values = [1 << bits.get(c, _GROUP) for c in range(num_classes)]
        values.append(1 << _GROUP if ignore_mode == "opaque" else 0)
        table = torch.tensor(values, dtype=torch.int32, device=labels.device)
        found = window_reduce(table[index], side, torch.bitwise_or, 0)
        found = found.masked_fill((found & (found - 1)) == 0, 0)  # one label only: no edge
        yield group, found.masked_fill(ignored, 0) if ignore_mode == "transparent" else found


def _pool_into(target: Tensor, found: Tensor, group: Sequence[int]) -> None:
    """Writes the group's average-pooled edge planes into ``target`` [N, K, h, w]."""
    (n, height, width), (h, w) = found.shape, (target.shape[2], target.shape[3])
    if height % h or width % w:
        for bit, c in enumerate(group):
            plane = ((found >> bit) & 1).float()
            target[:, c] = F.adaptive_avg_pool2d(plane, (h, w))
        return
    rows, columns = height // h, width // w
    cells = found.view(n, h, rows, w, columns).transpose(2, 3).reshape(n * h * w, rows * columns)
    where = torch.arange(len(cells), device=cells.device)
    if cells.device.type == "cpu":  # most cells hold no edge; on a GPU asking would cost a synchronisation
        where = (cells != 0).any(1).nonzero().flatten()
        cells = cells[where]
    image, position = where // (h * w), where % (h * w)
    flat = target.view(n, target.shape[1], h * w)
    for bit, c in enumerate(group):
        # Exact integer counts, divided as adaptive average pooling divides.
        counts = ((cells >> bit) & 1).sum(1, dtype=torch.int32).float()
        flat[image, c, position] = counts / rows / columns


def _check_mode(ignore_mode: str) -> None:
    if ignore_mode not in IGNORE_MODES:
        raise ValueError(f"ignore_mode: expected one of {IGNORE_MODES}, got {ignore_mode!r}.")


def _check_range(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        values = sorted(set(labels[wrong].tolist()))[:5]
        raise ValueError(
            f"labels: expected 0..{num_classes - 1} or ignore_index {ignore_index}, got {values}. Map or ignore "
            "these values when the labels are read."
        )
