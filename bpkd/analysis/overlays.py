"""Pictures of one image: BPKD's edge and body regions at each level, and predictions side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bpkd.analysis.plots import WRONG_EDGE, Image, colored, dimmed, finish, pyplot, swatch
from bpkd.functional import class_edge_mask, edge_band
from bpkd.text import label as drawn

BODY = (40, 110, 200)


def level_masks(
    labels: NDArray[Any], kernel_size: int, strides: Sequence[int], *, ignore_index: int, ignore_mode: str
) -> list[NDArray[np.float32]]:
    """Returns per level the edge weight of the strongest class, each [h, w] in [0, 1].

    Args:
        labels: [H, W] ids.
        kernel_size: edge width in pixels, odd.
        strides: stride of each level relative to the label map.
        ignore_index: label of pixels that are neither edge nor body.
        ignore_mode: treatment of ignored pixels, see ``class_edge_mask``.

    Raises:
        ValueError: a window or mode that does not exist, or labels without a class.
    """
    target = torch.from_numpy(np.asarray(labels)).long()[None]
    known = target[target != ignore_index]
    if not known.numel():
        raise ValueError(f"expected labels with a class, got only ignored pixels ({ignore_index}).")
    sizes = [(-(-target.shape[1] // s), -(-target.shape[2] // s)) for s in strides]
    rules: dict[str, Any] = {"ignore_index": ignore_index, "ignore_mode": ignore_mode}
    masks = class_edge_mask(target, int(known.max()) + 1, kernel_size, sizes, **rules)
    return [m[0].amax(0).numpy() for m in masks]


def tinted(image: Image, weight: NDArray[np.floating[Any]], color: Sequence[int]) -> Image:
    """Returns the dimmed RGB image [H, W, 3] with a colour blended over it with the opacity ``weight`` [h, w]."""
    size = image.shape[:2]
    share = F.interpolate(torch.from_numpy(np.asarray(weight, np.float32))[None, None], size=size)[0, 0].numpy()
    mixed = dimmed(image) * (1 - share[..., None]) + np.asarray(color) * share[..., None]
    out: Image = mixed.astype(np.uint8)
    return out


def edge_levels(
    image: Image,
    labels: NDArray[Any],
    path: Path,
    *,
    kernel_size: int = 7,
    strides: Sequence[int] = (4, 8, 16),
    ignore_index: int = 255,
    ignore_mode: str = "opaque",
) -> None:
    """Draws BPKD's edge (above) and body (below) regions over the image: at full resolution, then at each level.

    Args:
        image: RGB [H, W, 3].
        labels: [H, W] ids.
        path: PNG to write.
        kernel_size: edge width in pixels, odd.
        strides: stride of each level that the mask is pooled to.
        ignore_index: label of pixels that are neither edge nor body.
        ignore_mode: treatment of ignored pixels, see ``class_edge_mask``.

    Raises:
        ValueError: image and labels differ in size, or as ``level_masks``.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"expected image and labels of one size, got {image.shape[:2]} and {labels.shape}.")
    rules: dict[str, Any] = {"ignore_index": ignore_index, "ignore_mode": ignore_mode}
    band = edge_band(torch.from_numpy(np.asarray(labels)).long(), kernel_size, **rules).numpy()
    masks = [band.astype(np.float32), *level_masks(labels, kernel_size, strides, **rules)]
    titles = [f"edge, k = {kernel_size}: {100 * band.mean():.0f} % of the pixels"]
    titles += [f"edge at 1/{s}, strongest class" for s in strides]
    figure, grid = picture_grid(2, len(masks), labels.shape)
    for above, below, mask, title in zip(*grid, masks, titles, strict=True):
        above.imshow(tinted(image, mask, WRONG_EDGE))
        above.set_title(title, fontsize=9)
        below.imshow(tinted(image, 1 - mask, BODY))
        below.set_title("body", fontsize=9)
    finish(figure, path)


def side_by_side(
    image: Image,
    predictions: Mapping[str, NDArray[Any]],
    path: Path,
    *,
    colors: Sequence[Sequence[int]],
    class_names: Sequence[str],
) -> None:
    """Draws an image and predictions of it, without any label.

    Args:
        image: RGB [H, W, 3].
        predictions: name -> [H, W] ids.
        path: PNG to write.
        colors: RGB per class.
        class_names: for the legend, which shows the classes that occur.
    """
    figure, grid = picture_grid(1, 1 + len(predictions), image.shape[:2])
    shown = {"image": image, **{name: colored(ids, colors) for name, ids in predictions.items()}}
    for axes, (name, picture) in zip(grid[0], shown.items(), strict=True):
        axes.imshow(picture)
        axes.set_title(drawn(name), fontsize=9)
    seen = sorted({int(c) for ids in predictions.values() for c in np.unique(ids)})
    handles = [swatch(colors[c], class_names[c]) for c in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    finish(figure, path)


def picture_grid(rows: int, columns: int, size: Sequence[int]) -> tuple[Any, Any]:
    """Returns a figure and its axes [rows, columns] without frames, for pictures of ``size`` (height, width)."""
    height = 3.6 * size[0] / size[1] + 0.3
    figure, grid = pyplot().subplots(
        rows, columns, figsize=(3.6 * columns, rows * height), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.axis("off")
    return figure, grid
