"""Pictures of instances: masks over the image, side by side, and what is edge at each level."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bpkd.analysis.overlays import BODY, picture_grid, tinted
from bpkd.analysis.plots import WRONG_EDGE, Image, finish, fitted
from bpkd.analysis.report import display_name
from bpkd.functional import edge_band, instance_edges
from bpkd.text import label as drawn

Masks = NDArray[np.bool_]
Size = tuple[int, int]
TRUTH = "ground truth"
FILL = 0.4
# Overlap at which a mask gets the colour of the labelled instance.
SAME = 0.5
# From one hue to the next, so that neighbours in the list differ most.
GOLDEN = 0.618034


def instance_color(number: int) -> tuple[int, int, int]:
    """Returns the RGB of an instance's number."""
    value = 1.0 if number % 2 else 0.82
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.85, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def numbered(masks: Masks, truth: Masks) -> list[int]:
    """Gives masks the numbers of the labelled instances that they match, so that pictures share their colours.

    Args:
        masks: [n, H, W], the best first.
        truth: [m, H, W].

    Returns:
        [n]: the labelled instance with which a mask shares most, where the IoU is at least ``SAME``, each once; else a
        number of its own from m on.
    """
    a, b = (torch.from_numpy(x).flatten(1).float() for x in (masks, truth))
    overlap = a @ b.T
    iou = (overlap / (a.sum(1)[:, None] + b.sum(1)[None] - overlap).clamp(min=1)).numpy()
    found: list[int] = []
    for own, row in enumerate(iou):
        row[[n for n in found if n < len(truth)]] = 0
        best = int(row.argmax()) if len(row) else 0
        found.append(best if len(row) and row[best] >= SAME else len(truth) + own)
    return found


def outlined(image: Image, masks: Masks, numbers: Sequence[int] | None = None) -> Image:
    """Draws masks over an image, each in a colour of its own with its outline, the first on top.

    Args:
        image: RGB [H, W, 3].
        masks: [n, H, W].
        numbers: number of each mask's colour, see ``instance_color``; None: 0 .. n - 1.

    Raises:
        ValueError: image and masks differ in size.
    """
    if image.shape[:2] != masks.shape[1:]:
        raise ValueError(f"expected image and masks of one size, got {image.shape[:2]} and {masks.shape[1:]}.")
    out, width = image.astype(np.float32), max(1, round(min(image.shape[:2]) / 300))
    for number, mask in reversed(list(zip(numbers or range(len(masks)), masks, strict=True))):
        color = np.asarray(instance_color(number), np.float32)
        out[mask] = (1 - FILL) * out[mask] + FILL * color
        band = edge_band(torch.from_numpy(mask).to(torch.uint8), 2 * width + 1).numpy()
        out[mask & band] = color
    drawn: Image = out.astype(np.uint8)
    return drawn


def instance_layers(row: Mapping[str, Any]) -> dict[str, Image]:
    """Draws labels and predictions over one image.

    Args:
        row: ``image`` [3, h, w] RGB of any size, ``predictions`` {method: [n, H, W] bool}, and ``truth`` [m, H, W]
            where there are labels.

    Returns:
        {label: [H, W, 3]}: "image", the ground truth if there is one, and every method by the name that tables have.
        A mask has the colour of the labelled instance it lies on.
    """
    predictions, truth = row["predictions"], row.get("truth")
    size = next(m.shape[1:] for m in (truth, *predictions.values()) if m is not None)
    image = fitted(row["image"], size)
    known = np.zeros((0, *size), bool) if truth is None else truth
    labels = {} if truth is None else {TRUTH: outlined(image, truth)}
    drawn = {display_name(m): outlined(image, masks, numbered(masks, known)) for m, masks in predictions.items()}
    return {"image": image, **labels, **drawn}


def instance_panels(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws image, ground truth and each method's masks, a picture per row.

    Args:
        rows: as ``instance_layers`` takes them.
        path: PNG to write.
    """
    layers = [instance_layers(row) for row in rows]
    figure, grid = picture_grid(len(rows), len(layers[0]), layers[0]["image"].shape[:2])
    for axes, found, row in zip(grid, layers, rows, strict=True):
        counts = [len(m) for m in (row.get("truth"), *row["predictions"].values()) if m is not None]
        titles = ["image", *(f"{n}: {count} objects" for n, count in zip(list(found)[1:], counts, strict=True))]
        for one, picture, title in zip(axes, found.values(), titles, strict=True):
            one.imshow(picture)
            one.set_title(drawn(title), fontsize=9)
    finish(figure, path)


def instance_edge_levels(
    image: Image,
    levels: Sequence[tuple[str, Masks, Size]],
    path: Path,
    *,
    canvas: Size,
    kernel_size: int,
    iterations: int,
) -> None:
    """Draws BPKD's edge (above) and body (below) regions of instances over the image, a column per level.

    Args:
        image: RGB [h, w, 3].
        levels: (title, [n, h, w] the instances of the level, size of its map).
        path: PNG to write.
        canvas: padded size of the image, which the maps cover.
        kernel_size: edge width in pixels, odd.
        iterations: passes of the window.
    """
    figure, grid = picture_grid(2, len(levels), image.shape[:2])
    height, width = image.shape[:2]
    ground = np.zeros((*canvas, 3), np.uint8)
    ground[:height, :width] = image
    for above, below, (title, masks, size) in zip(*grid, levels, strict=True):
        (edges,) = instance_edges(torch.from_numpy(masks), kernel_size, canvas, [size], iterations=iterations)
        weight: NDArray[np.float32] = edges.amax(0).numpy() if len(masks) else np.zeros(size, np.float32)
        for axes, share, color in ((above, weight, WRONG_EDGE), (below, 1 - weight, BODY)):
            axes.imshow(tinted(ground, share, color)[:height, :width])
        above.set_title(drawn(title), fontsize=9)
        below.set_title("body", fontsize=9)
    finish(figure, path)
