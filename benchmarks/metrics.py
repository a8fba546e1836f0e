"""Time the boundary metrics of one image beside loops over the classes with OpenCV, after comparing their counts.

`python -m benchmarks.metrics --classes 19 150 --rounds 9 --cpu-time --json bench.json`. The loop for Boundary IoU is
boundary-iou-api's definition: per class pad, erode d times with 3x3, subtract. The ratio is the median of the rounds'
own.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import harness
from benchmarks.harness import Call, Row, pair_of, quartiles
from benchmarks.scenes import IGNORE, make_pair
from bpkd.functional.edges import mixed_windows
from bpkd.metrics import SegmentationMetrics
from bpkd.metrics.boundary import boundary_counts, boundary_width, contour_counts
from bpkd.metrics.confusion import nested_counts

WIDTHS, TOLERANCE, RATIO = (1, 3, 5, 9, 15), 3, 0.02
OURS, LOOP = "ours", "loop"
COLUMNS = {
    "what": "{what}",
    "classes": "{classes:d}",
    "ours ms": "{ours_ms:.1f}",
    "loop ms": "{loop_ms:.1f}",
    "loop / ours": "{times_faster:.1f}",
    "quartiles": pair_of("quartiles", ".1f"),
}
Counter = Callable[[], Any]


def square(distance: int) -> np.ndarray:
    """The structuring element of a distance in pixels."""
    return np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)


def loop_boundary(pred: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Boundary IoU's counts [3, K] as boundary-iou-api defines them, on masks without ignored pixels."""
    distance, counts = boundary_width(*label.shape, RATIO), np.zeros((3, num_classes), np.int64)
    for c in range(num_classes):
        rings = []
        for ids in (pred, label):
            mask = (ids == c).astype(np.uint8)
            padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
            rings.append(mask - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1])
        counts[:, c] = (rings[0] & rings[1]).sum(), rings[0].sum(), rings[1].sum()
    return counts


def loop_trimap(pred: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Hits, predicted and labelled pixels [W, 3, K] inside the bands: per class and width two dilations."""
    valid, counts = label != IGNORE, np.zeros((len(WIDTHS), 3, num_classes), np.int64)
    for i, width in enumerate(WIDTHS):
        band = np.zeros(label.shape, bool)
        for c in range(num_classes):
            own = label == c
            near = cv2.dilate((valid & ~own).astype(np.uint8), square(width))
            band |= own & (near > 0)
        for c in range(num_classes):
            p, t = band & (pred == c), band & (label == c)
            counts[i, :, c] = (p & t).sum(), p.sum(), t.sum()
    return counts


def loop_contour(pred: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Boundary F's counts [4, K]: per class both contours, each dilated."""
    valid, counts = label != IGNORE, np.zeros((4, num_classes), np.int64)
    for c in range(num_classes):
        lines = []
        for ids in (pred, label):
            own = valid & (ids == c)
            lines.append(own & (cv2.dilate((valid & ~own).astype(np.uint8), square(1)) > 0))
        for row, (own, other) in zip((0, 2), (lines, lines[::-1]), strict=True):
            near = cv2.dilate(other.astype(np.uint8), square(TOLERANCE)) > 0
            counts[row : row + 2, c] = (own & near).sum(), own.sum()
    return counts


def variants(args: argparse.Namespace, num_classes: int) -> dict[str, tuple[Counter, Counter]]:
    """Ours and the loop for each metric.

    Raises:
        RuntimeError: their counts differ: the times would mean nothing.
    """
    pred, label = make_pair(args.height, args.width, num_classes)
    p, t = (torch.from_numpy(a)[None] for a in (pred, label))
    valid = t != IGNORE
    t = t.masked_fill(~valid, 0)
    whole = SegmentationMetrics(num_classes, widths=WIDTHS, boundary_ratio=RATIO, tolerances=(TOLERANCE,))
    distance = boundary_width(*label.shape, RATIO)
    everywhere = torch.ones_like(valid)
    filled = t[0].numpy()

    def trimap() -> torch.Tensor:
        bands = [mixed_windows(t, valid, 2 * w + 1) for w in reversed(WIDTHS)]
        return nested_counts(p, t, [valid, *bands], num_classes)[1:].flip(0)

    def marginals() -> torch.Tensor:
        found = trimap()
        return torch.stack([found.diagonal(dim1=1, dim2=2), found.sum(1), found.sum(2)], 1)

    pairs: dict[str, tuple[Counter, Counter]] = {
        "Boundary IoU": (
            lambda: boundary_counts(p, t, everywhere, num_classes, distance),
            lambda: loop_boundary(pred, filled, num_classes),
        ),
        "trimap IoU, 5 widths": (marginals, lambda: loop_trimap(pred, label, num_classes)),
        "boundary F": (
            lambda: contour_counts(p, t, valid, num_classes, TOLERANCE),
            lambda: loop_contour(pred, label, num_classes),
        ),
    }
    for name, (ours, loop) in pairs.items():
        if not np.array_equal(ours().numpy(), loop()):
            raise RuntimeError(f"{name}: the loop counts otherwise ({num_classes} classes)")
    loops = [loop for _, loop in pairs.values()]
    pairs["all of SegmentationMetrics.update"] = (lambda: whole.update(pred, label), lambda: [f() for f in loops])
    return pairs


def benchmark(what: str, ours: Call, loop: Call, args: argparse.Namespace) -> Row:
    """One row: median milliseconds of both sides, median and quartiles of the rounds' own ratios."""
    times = harness.measure({OURS: ours, LOOP: loop}, args.rounds, clock=harness.clock_of(args))
    row = {"what": what, **{f"{side}_ms": statistics.median(times.ms[side]) for side in (OURS, LOOP)}}
    row |= {"rounds": args.rounds, "times_faster": times.ratio(LOOP, OURS)}
    return {**row, "quartiles": quartiles(times.ratios(LOOP, OURS))}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the arguments."""
    parser = harness.make_parser(__doc__, rounds=9)
    parser.set_defaults(threads=1)
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150], help="numbers of classes")
    parser.add_argument("--height", type=int, default=1024, help="of the image")
    parser.add_argument("--width", type=int, default=2048, help="of the image")
    return harness.parse(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    args = parse(argv)
    cv2.setNumThreads(args.threads)
    record = harness.new_record(args)
    for num_classes in args.classes:
        for name, (ours, loop) in variants(args, num_classes).items():
            record["rows"].append({"classes": num_classes, **benchmark(name, ours, loop, args)})
    print(harness.table(COLUMNS, record["rows"]))
    harness.write_record(args.json, record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
