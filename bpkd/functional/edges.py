"""Edges of label maps: masks per class, one band for all classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import dispatch
from .reference.edges import mixed_windows
from .structures import EdgeMap, EdgeWindow, SparseEdgeMask

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
        kernel_size: side of the square window in pixels, odd; 2w+1 gives the trimap band of half-width w.
        iterations: number of passes of the window.
        ignore_index: label that means "ignore".
        ignore_mode: "transparent": ignored pixels are no label and in no band; "opaque": they are one more label.

    Returns:
        bool, the shape of ``labels``.

    Raises:
        ValueError: a window or mode that does not exist.

    Example:
        >>> from bpkd.functional import edge_band
        >>> edge_band(torch.tensor([[0, 0, 0, 1, 1]]), 3)
        tensor([[False, False,  True,  True, False]])
    """
    side = window_side(kernel_size, iterations)
    _check_mode(ignore_mode)
    valid = labels != ignore_index if ignore_mode == "transparent" else torch.ones_like(labels, dtype=torch.bool)
    return mixed_windows(labels, valid, side)


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
        num_classes: number of classes K.
        kernel_size: side of the square window in label pixels, odd: the edge width. Pixels outside the image take
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
        ValueError: wrong rank, size, window or mode, or (labels on CPU) a label out of range.

    Source:
        Liu et al., "BPKD: Boundary Privileged Knowledge Distillation for Semantic Segmentation", WACV 2024, edge
        detection module; dilation and erosion with flat square windows.

    Example:
        >>> from bpkd.functional import class_edge_mask
        >>> labels = torch.tensor([[[0, 0, 0, 1]] * 4])
        >>> class_edge_mask(labels, num_classes=2, kernel_size=3)[0, 0]
        tensor([[0., 0., 1., 1.],
                [0., 0., 1., 1.],
                [0., 0., 1., 1.],
                [0., 0., 1., 1.]])
        >>> class_edge_mask(labels, num_classes=2, kernel_size=3, size=(1, 2)).shape
        torch.Size([1, 2, 1, 2])
    """
    window = _window(labels, kernel_size, iterations, ignore_index, ignore_mode)
    sizes = size if isinstance(size, list) else [size or (labels.shape[1], labels.shape[2])]
    _check_sizes(sizes)
    masks = dispatch.mask_backend(labels, num_classes).class_edge_masks(labels, num_classes, sizes, window)
    return masks if isinstance(size, list) else masks[0]


def class_edges(
    labels: Tensor,
    num_classes: int,
    kernel_size: int,
    size: tuple[int, int],
    *,
    iterations: int = 1,
    ignore_index: int = 255,
    ignore_mode: str = "opaque",
) -> Tensor | EdgeMap | SparseEdgeMask:
    """``class_edge_mask`` in the form that ``boundary_kd`` reads fastest.

    Args:
        labels: [N, H, W] integers in 0..num_classes-1 or ``ignore_index``.
        num_classes: number of classes K.
        kernel_size: side of the square window in label pixels, odd.
        size: (h, w) to pool to.
        iterations: number of passes of the window.
        ignore_index: label that means "ignore".
        ignore_mode: "opaque" or "transparent".

    Returns:
        The mask [N, K, h, w]: sparse on the backend "cpp", an ``EdgeMap`` on "triton", else a tensor.

    Raises:
        ValueError: as ``class_edge_mask``.

    Example:
        >>> from bpkd.functional import class_edges, use_backend
        >>> labels = torch.tensor([[[0, 0, 0, 1]] * 4])
        >>> with use_backend("eager"):
        ...     class_edges(labels, 2, 3, (1, 4)).squeeze()
        tensor([[0., 0., 1., 1.],
                [0., 0., 1., 1.]])
    """
    window = _window(labels, kernel_size, iterations, ignore_index, ignore_mode)
    _check_sizes([size])
    return dispatch.mask_backend(labels, num_classes).class_edges(labels, num_classes, size, window)


def _check_sizes(sizes: list[tuple[int, int]]) -> None:
    for size in sizes:
        if not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1:
            raise ValueError(f"size: expected (h, w), 1 or more each, got {size!r}.")


def _window(labels: Tensor, kernel_size: int, iterations: int, ignore_index: int, ignore_mode: str) -> EdgeWindow:
    side = window_side(kernel_size, iterations)
    _check_mode(ignore_mode)
    if labels.ndim != 3:
        raise ValueError(f"labels: expected [N, H, W], got {tuple(labels.shape)}.")
    return EdgeWindow(side, ignore_index, ignore_mode == "transparent")


def _check_mode(ignore_mode: str) -> None:
    if ignore_mode not in IGNORE_MODES:
        raise ValueError(f"ignore_mode: expected one of {IGNORE_MODES}, got {ignore_mode!r}.")


@dataclass(frozen=True)
class EdgeRule:
    """Arguments of ``class_edges`` that belong to a distiller, not to its images.

    Attributes:
        kernel_size: side of the square window in label pixels, odd.
        iterations: number of passes of the window.
        ignore_index: label that means "ignore".
        ignore_mode: "opaque" or "transparent", see ``class_edge_mask``.

    Example:
        >>> from bpkd.functional import EdgeRule
        >>> labels = torch.tensor([[0, 0, 0, 1]] * 4)
        >>> EdgeRule(kernel_size=3).sample_mask(labels, num_classes=2, canvas=(4, 4), size=(2, 2))
        SparseEdgeMask(shape=(1, 2, 2, 2), 4 non-zero positions)
    """

    kernel_size: int
    iterations: int = 1
    ignore_index: int = 255
    ignore_mode: str = "opaque"

    def edges(self, labels: Tensor, num_classes: int, size: tuple[int, int]) -> Tensor | EdgeMap | SparseEdgeMask:
        """Finds the edges of a batch.

        Args:
            labels: [N, H, W] integers in 0..num_classes-1 or ``ignore_index``.
            num_classes: number of classes K.
            size: (h, w) to pool to.

        Returns:
            The mask [N, K, h, w] in the form that ``class_edges`` returns.

        Raises:
            ValueError: as ``class_edges``.
        """
        return class_edges(labels, num_classes, size=size, **asdict(self))

    def sample_mask(
        self, labels: Tensor, *, num_classes: int, canvas: tuple[int, int], size: tuple[int, int]
    ) -> SparseEdgeMask:
        """Finds the edges of one sample as its batch will have them: padded at the right and the bottom.

        Args:
            labels: [H, W] integers on the CPU.
            num_classes: number of classes K.
            canvas: (height, width) of the batch; the padding is ``ignore_index``.
            size: (h, w) to pool to.

        Returns:
            The mask [1, K, h, w].

        Raises:
            ValueError: as ``class_edges``, or the labels are larger than the canvas.
        """
        below, right = canvas[0] - labels.shape[-2], canvas[1] - labels.shape[-1]
        if below < 0 or right < 0:
            raise ValueError(f"labels: expected at most the canvas {canvas}, got {tuple(labels.shape)}.")
        padded = F.pad(labels[None], (0, right, 0, below), value=self.ignore_index)
        return SparseEdgeMask.of(self.edges(padded, num_classes, size))

    sample_rows = sample_mask  # the name before 0.2
