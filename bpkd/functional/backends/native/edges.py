"""Edge masks of label maps in C++, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from bpkd.functional.reference.labels import check_labels
from bpkd.functional.structures import EdgeMask, EdgeWindow, SparseEdgeMask, dense_edges, flat_rows

from . import loader

MOST_CLASSES = 254
_BYTES = {torch.uint8: 1, torch.int32: 4, torch.int64: 8}


def unsupported_reason(labels: Tensor, num_classes: int) -> str | None:
    """Returns why these masks cannot be made of the labels; None: they can."""
    if labels.device.type != "cpu":
        return "it runs on the CPU alone"
    if num_classes > MOST_CLASSES:
        return f"it knows at most {MOST_CLASSES} classes"
    return loader.unavailable_reason()


@contextmanager
def _found(
    labels: Tensor, num_classes: int, size: tuple[int, int], window: EdgeWindow, *, out: Tensor | None = None
) -> Iterator[tuple[int, int]]:
    """Yields a handle of the edges and their number; with ``out``, a zeroed mask, they are written there instead.

    Raises:
        ValueError: a label is out of range.
    """
    library = loader.library()
    given = labels.contiguous() if labels.dtype in _BYTES else labels.long().contiguous()
    handle = library.bpkd_edges(
        given.data_ptr(),
        _BYTES[given.dtype],
        loader.int64s(*labels.shape, *size, num_classes, window.side),
        window.ignore_index,
        int(window.transparent),
        None if out is None else out.data_ptr(),
        torch.get_num_threads(),
    )
    try:
        count = library.bpkd_edges_count(handle)
        if count < 0:
            check_labels(labels, num_classes, window.ignore_index)
        yield handle, count
    finally:
        library.bpkd_edges_free(handle)


def class_edges(labels: Tensor, num_classes: int, size: tuple[int, int], window: EdgeWindow) -> SparseEdgeMask:
    """See ``bpkd.functional.class_edges``; the sparse mask."""
    with _found(labels, num_classes, size, window) as (handle, count):
        crow = torch.empty(len(labels) * num_classes + 1, dtype=torch.int64)
        index, value = torch.empty(count, dtype=torch.int32), torch.empty(count)
        loader.library().bpkd_edges_rows(handle, crow.data_ptr(), index.data_ptr(), value.data_ptr())
    return SparseEdgeMask((len(labels), num_classes, *size), crow, index, value)


def class_edge_masks(
    labels: Tensor, num_classes: int, sizes: Sequence[tuple[int, int]], window: EdgeWindow
) -> list[Tensor]:
    """See ``bpkd.functional.class_edge_mask``; one mask per size."""
    masks = []
    for size in sizes:
        mask = torch.zeros(len(labels), num_classes, *size)
        with _found(labels, num_classes, size, window, out=mask):
            masks.append(mask)
    return masks


def sparse_mask(edges: EdgeMask) -> SparseEdgeMask:
    """Converts any form of an edge mask [N, K, h, w] to the sparse one.

    Raises:
        ValueError: the mask is not four-dimensional.
    """
    if isinstance(edges, SparseEdgeMask):
        return edges
    flat = flat_rows(dense_edges(edges))
    crow = torch.zeros(len(flat) + 1, dtype=torch.int64)
    shape, threads, find = loader.int64s(*flat.shape), torch.get_num_threads(), loader.library().bpkd_rows_of
    find(flat.data_ptr(), shape, crow.data_ptr(), None, None, threads)
    count = int(crow[-1])
    index, value = torch.empty(count, dtype=torch.int32), torch.empty(count)
    find(flat.data_ptr(), shape, crow.data_ptr(), index.data_ptr(), value.data_ptr(), threads)
    n, k, h, w = edges.shape
    return SparseEdgeMask((n, k, h, w), crow, index, value)
