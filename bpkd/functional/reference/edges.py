"""Edge masks on any device, from the set of labels in each window as a bit word.

Dilation of class c's mask is 1 where the window holds c, erosion is 1 where it holds nothing else. So their
difference is 1 exactly where the window holds c and a second label: it is read off the *set* of labels per window,
a bit word that two runs of OR (rows, columns) give for all classes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd.functional.structures import EdgeWindow

from .labels import check_labels

# Classes per int32 word; the next bit stands for every label outside the group.
_GROUP = 30


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


def mixed_windows(labels: Tensor, valid: Tensor, side: int) -> Tensor:
    """Valid pixels whose side x side window holds more than one valid label; beyond the image there is none.

    Args:
        labels: [..., H, W] integers.
        valid: bool, same shape; the other pixels have no label.
        side: side of the square window in pixels, odd.

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


def class_edge_masks(
    labels: Tensor, num_classes: int, sizes: Sequence[tuple[int, int]], window: EdgeWindow
) -> list[Tensor]:
    """See ``bpkd.functional.class_edge_mask``; one mask per size."""
    if labels.device.type == "cpu":  # on a GPU this would wait for the queue
        check_labels(labels, num_classes, window.ignore_index)
    masks = [labels.new_zeros((len(labels), num_classes, *size), dtype=torch.float32) for size in sizes]
    for group, found in _edge_words(labels, num_classes, window):
        for mask in masks:
            _pool_into(mask, found, group)
    return masks


def class_edges(labels: Tensor, num_classes: int, size: tuple[int, int], window: EdgeWindow) -> Tensor:
    """See ``bpkd.functional.class_edges``; the dense mask."""
    return class_edge_masks(labels, num_classes, [size], window)[0]


def _edge_words(labels: Tensor, num_classes: int, window: EdgeWindow) -> Iterator[tuple[list[int], Tensor]]:
    """Yields (classes, int32 [N, H, W]): bit b is set where the pixel is an edge pixel of class ``classes[b]``."""
    ignored = labels == window.ignore_index
    index = labels.long().masked_fill(ignored, num_classes)
    classes = list(range(num_classes))
    if labels.device.type == "cpu":  # a look at the labels is free here and leaves few classes
        counts = torch.bincount(index.flatten(), minlength=num_classes + 1)
        classes = counts[:num_classes].nonzero().flatten().tolist()
    for start in range(0, len(classes), _GROUP):
        group = classes[start : start + _GROUP]
        table = _table(group, num_classes, window, labels.device)
        found = window_reduce(table[index], window.side, torch.bitwise_or, 0)
        found = found.masked_fill((found & (found - 1)) == 0, 0)  # one label only: no edge
        yield group, found.masked_fill(ignored, 0) if window.transparent else found


def _table(group: Sequence[int], num_classes: int, window: EdgeWindow, device: torch.device) -> Tensor:
    """Label -> word, "void" last: one bit per class of the group; every other label, and opaque void, shares the next.

    Filled on the device: a copy to a GPU would wait for it.
    """
    table = torch.full((num_classes + 1,), 1 << _GROUP, dtype=torch.int32, device=device)
    if window.transparent:
        table[-1:].zero_()
    if device.type == "cpu":
        for bit, c in enumerate(group):
            table[c] = 1 << bit
    else:  # all classes are in a group, in their order
        one = torch.ones(len(group), dtype=torch.int32, device=device)
        table[group[0] : group[-1] + 1] = one << torch.arange(len(group), dtype=torch.int32, device=device)
    return table


def _pool_into(target: Tensor, found: Tensor, group: Sequence[int]) -> None:
    """Writes the group's average-pooled edge planes into ``target`` [N, K, h, w]."""
    (n, height, width), (h, w) = found.shape, (target.shape[2], target.shape[3])
    if height % h or width % w:
        for bit, c in enumerate(group):
            plane = ((found >> bit) & 1).float()
            target[:, c] = F.adaptive_avg_pool2d(plane, (h, w))
        return
    rows, columns = height // h, width // w
    divisors = [torch.full((1,), float(n), device=found.device) for n in (rows, columns)]
    cells = found.view(n, h, rows, w, columns).transpose(2, 3).reshape(n * h * w, rows * columns)
    where = torch.arange(len(cells), device=cells.device)
    if cells.device.type == "cpu":  # most cells hold no edge; on a GPU asking would cost a synchronisation
        where = (cells != 0).any(1).nonzero().flatten()
        cells = cells[where]
    image, position = where // (h * w), where % (h * w)
    flat = target.view(n, target.shape[1], h * w)
    for bit, c in enumerate(group):
        # Exact integer counts, divided as adaptive average pooling divides; by tensors, since a GPU would multiply by
        # the reciprocal of a number.
        counts = ((cells >> bit) & 1).sum(1, dtype=torch.int32).float()
        flat[image, c, position] = counts / divisors[0] / divisors[1]
