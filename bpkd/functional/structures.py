"""Edge masks and options that the public functions exchange with the reference and the backends."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from bpkd.transfer import send

_RENAMED = {"begin": "crow", "cells": "index", "shares": "value"}  # fields of the class when it was called EdgeRows


@dataclass(frozen=True)
class EdgeMap:
    """A dense edge mask with the counts that the kernels on a GPU would otherwise compute again.

    Attributes:
        mask: float32 [N, K, h, w] in [0, 1].
        counts: int32 [N, K], number of non-zero positions of each class's mask; None: not counted yet.

    Example:
        >>> EdgeMap(torch.zeros(1, 2, 4, 4)).shape
        torch.Size([1, 2, 4, 4])
    """

    mask: Tensor
    counts: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(N, K, h, w)."""
        return self.mask.shape

    def dense(self, device: torch.device | None = None) -> Tensor:
        """Returns the mask as a tensor, moved to the device if one is given."""
        return self.mask if device is None else self.mask.to(device)


@dataclass(frozen=True)
class SparseEdgeMask:
    """An edge mask [N, K, h, w] in compressed sparse row (CSR) format, on the CPU.

    About 4 % of a mask's positions are non-zero with 19 classes and 0.5 % with 150. A row holds the mask of one image
    and one class, a column is a position i w + j.

    Attributes:
        shape: (N, K, h, w) of the dense mask.
        crow: int64 [N K + 1]; row r = n K + c owns the entries ``crow[r]`` to ``crow[r + 1]`` of the next two tensors.
        index: int32, position i w + j of each non-zero entry, ascending in a row.
        value: float32 in (0, 1], share of edge pixels at that position.

    Example:
        >>> mask = torch.tensor([[[[0.0, 0.5], [0.0, 0.25]]]])
        >>> sparse = SparseEdgeMask.from_dense(mask)
        >>> sparse
        SparseEdgeMask(shape=(1, 1, 2, 2), 2 non-zero positions)
        >>> sparse.index.tolist(), sparse.value.tolist()
        ([1, 3], [0.5, 0.25])
        >>> torch.equal(sparse.dense(), mask)
        True
    """

    shape: tuple[int, int, int, int]
    crow: Tensor
    index: Tensor
    value: Tensor

    def __repr__(self) -> str:
        """Short: the tensors have thousands of entries."""
        return f"SparseEdgeMask(shape={self.shape}, {len(self.index)} non-zero positions)"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as NumPy arrays: each tensor would take a shared memory segment on its way between processes."""
        return _unpickled, (self.shape, self.crow.numpy(), self.index.numpy(), self.value.numpy())

    def __getattr__(self, name: str) -> Tensor:
        """Returns a field by its old name in ``EdgeRows``, with a warning."""
        if name not in _RENAMED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        new = _RENAMED[name]
        warnings.warn(f"SparseEdgeMask.{name} is now called {new}.", DeprecationWarning, stacklevel=2)
        found: Tensor = getattr(self, new)
        return found

    def dense(self, device: torch.device | None = None) -> Tensor:
        """Returns the mask as a tensor, float32 [N, K, h, w], on the CPU or a device; only the entries are moved."""
        n, k, h, w = self.shape
        out = torch.zeros(n * k * h * w, device=device)
        row = torch.repeat_interleave(torch.arange(n * k), self.crow.diff())
        out[send(row * (h * w) + self.index, out.device)] = send(self.value, out.device)
        return out.view(self.shape)

    @classmethod
    def from_dense(cls, mask: Tensor) -> SparseEdgeMask:
        """Returns the non-zero entries of a mask [N, K, h, w].

        Raises:
            ValueError: the mask is not four-dimensional.
        """
        flat = flat_rows(mask)
        row, index = flat.nonzero(as_tuple=True)
        crow = torch.zeros(len(flat) + 1, dtype=torch.int64)
        crow[1:] = row.bincount(minlength=len(flat)).cumsum(0)
        n, k, h, w = mask.shape
        return cls((n, k, h, w), crow, index.int(), flat[row, index])

    @classmethod
    def of(cls, mask: Tensor | EdgeMap | SparseEdgeMask) -> SparseEdgeMask:
        """Converts any form of an edge mask to the sparse one.

        Raises:
            ValueError: the mask is not four-dimensional.
        """
        return mask if isinstance(mask, SparseEdgeMask) else cls.from_dense(dense_edges(mask))

    @classmethod
    def cat(cls, parts: Sequence[SparseEdgeMask]) -> SparseEdgeMask:
        """Joins the masks of several images into the mask of one batch, in their order.

        Raises:
            ValueError: there are none, or they differ in [K, h, w].
        """
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) != 1:
            raise ValueError(f"parts: expected masks of equal [K, h, w], got {sorted(shapes) or 'none'}.")
        crow, count = [torch.zeros(1, dtype=torch.int64)], 0
        for part in parts:
            crow.append(part.crow[1:] + count)
            count += len(part.index)
        index, value = (torch.cat([getattr(part, name) for part in parts]) for name in ("index", "value"))
        return cls((sum(part.shape[0] for part in parts), *shapes.pop()), torch.cat(crow), index, value)


def _unpickled(shape: tuple[int, int, int, int], *arrays: NDArray[Any]) -> SparseEdgeMask:
    return SparseEdgeMask(shape, *(torch.from_numpy(array) for array in arrays))


EdgeMask = Tensor | EdgeMap | SparseEdgeMask


def dense_edges(edges: EdgeMask, device: torch.device | None = None) -> Tensor:
    """Returns any form of an edge mask as a float32 tensor, on its own device or the given one."""
    dense = edges if isinstance(edges, Tensor) else edges.dense(device)
    return dense.to(device or dense.device, torch.float32)


def flat_rows(mask: Tensor) -> Tensor:
    """Returns a mask [N, K, h, w] as contiguous float32 [N K, h w] on the CPU.

    Raises:
        ValueError: the mask is not four-dimensional.
    """
    if mask.ndim != 4:
        raise ValueError(f"mask: expected [N, K, h, w], got {tuple(mask.shape)}.")
    n, k, h, w = mask.shape
    return mask.detach().to("cpu", torch.float32).contiguous().view(n * k, h * w)


@dataclass(frozen=True)
class EdgeWindow:
    """Window and treatment of ignored pixels that define an edge pixel.

    Attributes:
        side: side of the square window in pixels, odd.
        ignore_index: label that means "ignore".
        transparent: True: ignored pixels neither make an edge nor are one; False: they count as one more label.
    """

    side: int
    ignore_index: int
    transparent: bool


@dataclass(frozen=True)
class BoundaryOptions:
    """Options of ``boundary_kd`` after its checks.

    Attributes:
        temperature: divisor of the logits.
        alpha: float32 [K], factor of each class in the edge term.
        pre_mask: filter before the softmax, "soft", "hard" or "none".
        normalizer: divisor of the edge sum, "positions", "classes", "weights" or "average".
    """

    temperature: float
    alpha: Tensor
    pre_mask: str
    normalizer: str


@dataclass(frozen=True)
class CrossEntropyOptions:
    """Options of ``upsampled_cross_entropy`` after its checks.

    Attributes:
        weight: float32 [K], factor per class; None: 1.
        count: divisor of the sum over pixels.
        ignore_index: label of pixels whose loss is 0.
        align_corners: convention of the bilinear resize, as in ``torch.nn.functional.interpolate``.
    """

    weight: Tensor | None
    count: Tensor | int
    ignore_index: int
    align_corners: bool
