"""Edge maps of label maps, exact and without one dilation per class: see ``edge_sets`` for how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from . import edge_planes, edge_rows, edge_sets, paths, triton_path
from .edge_rows import EdgeMap, EdgeRows, Window
from .edge_sets import window_reduce

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
        ValueError: wrong rank, size, window or mode, or (labels on CPU) a label out of range.

    Source:
        Liu et al., "BPKD: Boundary Privileged Knowledge Distillation for Semantic Segmentation", WACV 2024, edge
        detection module; dilation and erosion with flat square windows.
    """
    window = _window(labels, kernel_size, iterations=iterations, ignore_index=ignore_index, ignore_mode=ignore_mode)
    sizes = size if isinstance(size, list) else [size or (labels.shape[1], labels.shape[2])]
    path = _path(labels, num_classes, sizes)
    if path == "cpp":
        found = [edge_rows.find_dense(labels, num_classes, s, window) for s in sizes]
        out = [mask for mask in found if mask is not None]
        if len(out) < len(sizes):
            _check_range(labels, num_classes, ignore_index)
    else:
        if path != "compiled" and labels.device.type == "cpu":
            _check_range(labels, num_classes, ignore_index)
        make = labels.new_empty if path == "triton" else labels.new_zeros
        out = [make((len(labels), num_classes, *s), dtype=torch.float32) for s in sizes]
        if path == "triton":
            from .triton_path import masks

            masks.write_edges(labels, out, window)
        elif path == "compiled":
            if not edge_planes.write_edges(labels, out, window):
                _check_range(labels, num_classes, ignore_index)
        else:
            edge_sets.write_edges(labels, out, window)
    return out if isinstance(size, list) else out[0]


def class_edges(
    labels: Tensor,
    num_classes: int,
    kernel_size: int,
    size: tuple[int, int],
    *,
    iterations: int = 1,
    ignore_index: int = 255,
    ignore_mode: str = "opaque",
) -> Tensor | EdgeMap | EdgeRows:
    """``class_edge_mask`` in the form that ``boundary_kd`` reads fastest.

    Args:
        labels: [N, H, W] integers in 0..num_classes-1 or ``ignore_index``.
        num_classes: K.
        kernel_size: odd side of the square window in label pixels.
        size: (h, w) to pool to.
        iterations: passes of the window.
        ignore_index: label that means "ignore".
        ignore_mode: "opaque" or "transparent".

    Returns:
        The mask [N, K, h, w]: its rows on the path "cpp", a map with its counts on "triton", else a map.

    Raises:
        ValueError: as ``class_edge_mask``.
    """
    rules = {"iterations": iterations, "ignore_index": ignore_index}
    window = _window(labels, kernel_size, **rules, ignore_mode=ignore_mode)
    path = _path(labels, num_classes, [size])
    if path == "cpp":
        rows = edge_rows.find_rows(labels, num_classes, size, window)
        if rows is not None:
            return rows
    if path == "triton":
        from .triton_path import masks

        if labels.device.type == "cpu":
            _check_range(labels, num_classes, ignore_index)
        mask = labels.new_empty((len(labels), num_classes, *size), dtype=torch.float32)
        counts = labels.new_zeros((len(labels), num_classes), dtype=torch.int32)
        masks.write_edges(labels, [mask], window, counts)
        return EdgeMap(mask, counts)
    return class_edge_mask(labels, num_classes, kernel_size, size, **rules, ignore_mode=ignore_mode)


def _path(labels: Tensor, num_classes: int, sizes: list[tuple[int, int]]) -> str:
    for size in sizes:
        if not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1:
            raise ValueError(f"size: expected (h, w), 1 or more each, got {size!r}.")
    obstacles = {
        "cpp": edge_rows.obstacle(labels, num_classes),
        "triton": triton_path.obstacle(labels),
        "compiled": edge_planes.obstacle(labels, num_classes, sizes),
    }
    types = (labels.dtype,)
    return paths.choose("class_edge_mask", labels.device, obstacles, auto=("cpp", "triton", "compiled"), types=types)


def _window(labels: Tensor, kernel_size: int, *, iterations: int, ignore_index: int, ignore_mode: str) -> Window:
    side = window_side(kernel_size, iterations)
    _check_mode(ignore_mode)
    if labels.ndim != 3:
        raise ValueError(f"labels: expected [N, H, W], got {tuple(labels.shape)}.")
    return Window(side, ignore_index, ignore_mode == "transparent")


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
