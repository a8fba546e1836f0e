"""Edge masks as compressed rows, and the C++ path that finds them.

Few cells of a mask are not zero (4 % with 19 classes, 0.5 % with 150), so a row per image and class with the cells that
are is far smaller than the map, and it is the form in which the fused loss reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from . import native

MOST_CLASSES = 254
_BYTES = {torch.uint8: 1, torch.int32: 4, torch.int64: 8}


@dataclass(frozen=True)
class EdgeMap:
    """A mask as a map, with what the kernels on a GPU would have to count again.

    Attributes:
        mask: float32 [N, K, h, w].
        counts: int32 [N, K], the positions of each class's map that are not zero; None: not counted yet.
    """

    mask: Tensor
    counts: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(N, K, h, w)."""
        return self.mask.shape

    def dense(self, device: torch.device | None = None) -> Tensor:
        """Returns the map, on its device or another."""
        return self.mask if device is None else self.mask.to(device)


@dataclass(frozen=True)
class EdgeRows:
    """A mask [N, K, h, w] by its non-zero cells, on the CPU.

    Attributes:
        shape: (N, K, h, w).
        begin: int64 [N K + 1]; row n K + c is ``begin[n K + c]`` to ``begin[n K + c + 1]`` of the next two.
        cells: int32, the place i w + j of each non-zero cell, ascending in a row.
        shares: float32 in (0, 1].
    """

    shape: tuple[int, int, int, int]
    begin: Tensor
    cells: Tensor
    shares: Tensor

    def __repr__(self) -> str:
        """Short: the tensors have thousands of entries."""
        return f"EdgeRows(shape={self.shape}, {len(self.cells)} non-zero cells)"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as NumPy arrays: tensors would each take a shared memory segment on their way between processes."""
        return _unpickled, (self.shape, self.begin.numpy(), self.cells.numpy(), self.shares.numpy())

    def dense(self, device: torch.device | None = None) -> Tensor:
        """Returns the mask as a map, float32 [N, K, h, w], on the CPU or a device: the rows alone are moved."""
        n, k, h, w = self.shape
        out = torch.zeros(n * k * h * w, device=device)
        row = torch.repeat_interleave(torch.arange(n * k), self.begin.diff())
        out[(row * (h * w) + self.cells).to(out.device)] = self.shares.to(out.device)
        return out.view(self.shape)

    @classmethod
    def of(cls, mask: Tensor | EdgeMap | EdgeRows) -> EdgeRows:
        """Returns the rows of a mask [N, K, h, w]; the C++ extension reads them off a map sooner where it is built.

        Raises:
            ValueError: the mask is not a map.
        """
        if isinstance(mask, EdgeRows):
            return mask
        mask = mask.mask if isinstance(mask, EdgeMap) else mask
        if mask.ndim != 4:
            raise ValueError(f"mask: expected [N, K, h, w], got {tuple(mask.shape)}.")
        n, k, h, w = mask.shape
        dense = mask.detach().to("cpu", torch.float32).contiguous()
        begin = torch.zeros(n * k + 1, dtype=torch.int64)
        if native.unavailable():
            flat = dense.view(n * k, h * w)
            row, cell = flat.nonzero(as_tuple=True)
            begin[1:] = row.bincount(minlength=n * k).cumsum(0)
            return cls((n, k, h, w), begin, cell.int(), flat[row, cell])
        shape, threads, find = native.int64s(n * k, h * w), torch.get_num_threads(), native.library().bpkd_rows_of
        find(dense.data_ptr(), shape, begin.data_ptr(), None, None, threads)
        count = int(begin[-1])
        cells, shares = torch.empty(count, dtype=torch.int32), torch.empty(count)
        find(dense.data_ptr(), shape, begin.data_ptr(), cells.data_ptr(), shares.data_ptr(), threads)
        return cls((n, k, h, w), begin, cells, shares)

    @classmethod
    def cat(cls, parts: Sequence[EdgeRows]) -> EdgeRows:
        """Joins the rows of several masks to those of one batch, in their order.

        Raises:
            ValueError: there are none, or they differ in [K, h, w].
        """
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) != 1:
            raise ValueError(f"parts: expected rows of equal [K, h, w], got {sorted(shapes) or 'none'}.")
        begin, count = [torch.zeros(1, dtype=torch.int64)], 0
        for part in parts:
            begin.append(part.begin[1:] + count)
            count += len(part.cells)
        cells, shares = (torch.cat([getattr(part, name) for part in parts]) for name in ("cells", "shares"))
        return cls((sum(part.shape[0] for part in parts), *shapes.pop()), torch.cat(begin), cells, shares)


def _unpickled(shape: tuple[int, int, int, int], *arrays: NDArray[Any]) -> EdgeRows:
    return EdgeRows(shape, *(torch.from_numpy(array) for array in arrays))


def obstacle(labels: Tensor, num_classes: int) -> str:
    """Returns why the C++ path cannot find the edges; empty: it can."""
    if labels.device.type != "cpu":
        return "it runs on the CPU alone"
    if num_classes > MOST_CLASSES:
        return f"it knows at most {MOST_CLASSES} classes"
    return native.unavailable()


@dataclass(frozen=True)
class Window:
    """What makes an edge: side of the window in pixels, the ignored label and what it does."""

    side: int
    ignore_index: int
    transparent: bool


@contextmanager
def _found(
    labels: Tensor, num_classes: int, size: tuple[int, int], window: Window, *, out: Tensor | None = None
) -> Iterator[int]:
    """Yields a handle of the edges; with ``out``, a zeroed map, they are written there instead."""
    library = native.library()
    given = labels.contiguous() if labels.dtype in _BYTES else labels.long().contiguous()
    handle = library.bpkd_edges(
        given.data_ptr(),
        _BYTES[given.dtype],
        native.int64s(*labels.shape, *size, num_classes, window.side),
        window.ignore_index,
        int(window.transparent),
        None if out is None else out.data_ptr(),
        torch.get_num_threads(),
    )
    try:
        yield handle
    finally:
        library.bpkd_edges_free(handle)


def find_rows(labels: Tensor, num_classes: int, size: tuple[int, int], window: Window) -> EdgeRows | None:
    """Finds the edges of [N, H, W] labels, pooled to ``size``; None: a label is out of range."""
    library, rows = native.library(), len(labels) * num_classes
    with _found(labels, num_classes, size, window) as handle:
        count = library.bpkd_edges_count(handle)
        if count < 0:
            return None
        begin, cells = torch.empty(rows + 1, dtype=torch.int64), torch.empty(count, dtype=torch.int32)
        shares = torch.empty(count)
        library.bpkd_edges_rows(handle, begin.data_ptr(), cells.data_ptr(), shares.data_ptr())
    return EdgeRows((len(labels), num_classes, *size), begin, cells, shares)


def find_dense(labels: Tensor, num_classes: int, size: tuple[int, int], window: Window) -> Tensor | None:
    """The same as a map, float32 [N, K, h, w]."""
    out = torch.zeros(len(labels), num_classes, *size)
    with _found(labels, num_classes, size, window, out=out) as handle:
        good = native.library().bpkd_edges_count(handle) >= 0
    return out if good else None
