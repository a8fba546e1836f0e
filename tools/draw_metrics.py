#!/usr/bin/env python3
"""Draw what the boundary metrics count, on a disc that is predicted wrong: docs/images/metrics.png.

python tools/draw_metrics.py docs/images/metrics.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from bpkd.analysis.plots import colored, pyplot
from bpkd.functional.edges import mixed_windows
from bpkd.metrics import SegmentationMetrics
from bpkd.metrics.boundary import inner_boundary

SIZE, BAND, RING, TOLERANCE = 72, 5, 6, 3
COLORS = ((70, 70, 70), (128, 64, 128), (220, 120, 40))
GREEN, RED, BLUE = (60, 170, 90), (225, 45, 60), (60, 110, 200)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Returns prediction and label [H, W]: a disc on two grounds, moved and dented in the prediction; some ignored."""
    y, x = np.mgrid[:SIZE, :SIZE]
    label = (y > 44).astype(np.uint8)
    pred = (y > 46).astype(np.uint8)
    label[(y - 34) ** 2 + (x - 36) ** 2 < 18**2] = 2
    pred[((y - 34) ** 2 + (x - 41) ** 2 < 17**2) & ~((abs(x - 36) < 4) & (y < 26))] = 2
    label[56:, :14] = 255
    return pred, label


def painted(layers: list[tuple[np.ndarray, tuple[int, int, int]]], ignored: np.ndarray) -> np.ndarray:
    """Returns an RGB picture: light grey, later layers above earlier ones, ignored pixels black."""
    out = np.full((SIZE, SIZE, 3), 232, np.uint8)
    for mask, color in layers:
        out[mask] = color
    out[ignored] = 0
    return out


def pictures() -> dict[str, np.ndarray]:
    """Returns RGB pictures by title."""
    pred, label = scene()
    p, t = (torch.from_numpy(a)[None] for a in (pred, label))
    valid = t != 255
    t = t.masked_fill(~valid, 0)
    metrics = SegmentationMetrics(3, widths=(BAND,), boundary_ratio=RING / (SIZE * 2**0.5), tolerances=(TOLERANCE,))
    metrics.update(pred, label)
    found = metrics.compute()
    band = mixed_windows(t, valid, 2 * BAND + 1)[0].numpy()
    wrong, body = (pred != label) & (label != 255), (label != 255) & ~band
    rings = [(inner_boundary(a, valid, RING)[0] & (a[0] == 2)).numpy() for a in (p, t)]
    lines = [(mixed_windows(a, valid, 3)[0] & (a[0] == 2)).numpy() for a in (p, t)]
    ignored = label == 255
    iou, ring, f = found["trimap"][BAND], found["boundary_IoU_per_class"][2], found["boundary_F"][TOLERANCE]["F"][2]
    return {
        "label (black: ignored)": colored(label, COLORS),
        "prediction": colored(pred, COLORS),
        f"trimap w={BAND}: grey band\nmIoU {iou['mIoU']:.0f}, body {found['body'][BAND]['mIoU']:.0f}": painted(
            [(band, (170, 170, 170)), (wrong & band, RED), (wrong & body, (255, 190, 0))], ignored
        ),
        f"Boundary IoU of the disc, d={RING}\ngreen both, red / blue one: {ring:.0f}": painted(
            [(rings[0], RED), (rings[1], BLUE), (rings[0] & rings[1], GREEN)], ignored
        ),
        f"boundary F of the disc, {TOLERANCE} px\nred prediction, blue label: {f:.0f}": painted(
            [(lines[1], BLUE), (lines[0], RED), (lines[0] & lines[1], GREEN)], ignored
        ),
    }


def main(argv: list[str] | None = None) -> int:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    path = parser.parse_args(argv).output
    drawn = pictures()
    figure, grid = pyplot().subplots(1, len(drawn), figsize=(2.5 * len(drawn), 3), layout="constrained")
    for axes, (title, picture) in zip(grid, drawn.items(), strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    figure.savefig(path, dpi=90)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
