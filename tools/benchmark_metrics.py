"""Time the boundary metrics of one image beside loops over the classes with OpenCV, after comparing their counts.

`python tools/benchmark_metrics.py --classes 19 150 --rounds 9 --threads 1 --cpu-time --json bench.json`. The loop for
Boundary IoU is boundary-iou-api's definition: per class pad, erode d times with 3x3, subtract. Rounds are interleaved;
the ratio is the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bpkd.analysis.records import environment
from bpkd.functional.edges import mixed_windows
from bpkd.metrics import SegmentationMetrics
from bpkd.metrics.boundary import boundary_counts, boundary_width, contour_counts
from bpkd.metrics.confusion import nested_counts

IGNORE, WIDTHS, TOLERANCE, RATIO = 255, (1, 3, 5, 9, 15), 3, 0.02
CPU_TIME = "count the processor time of this process: for a machine on which other programs take turns"
Counter = Callable[[], Any]


def make_pair(height: int, width: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scene-like prediction and label [H, W]: sixty overlapping discs, the prediction moved; some ignored."""
    rng = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    for _ in range(60):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(label, centre, int(rng.integers(height // 50, height // 5)), int(rng.integers(num_classes)), -1)
    pred = np.roll(label, 3, axis=1)
    label[: height // 4, : width // 40] = IGNORE
    return pred, label


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


def measure(pairs: dict[str, tuple[Counter, Counter]], rounds: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """Rows: median milliseconds of both and the median of the rounds' ratios; a first round is thrown away."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    for index in range(-1, rounds):
        for name, both in pairs.items():
            spent = [0.0, 0.0]
            for side in (0, 1) if index % 2 else (1, 0):
                start = clock()
                both[side]()
                spent[side] = 1e3 * (clock() - start)
            if index >= 0:
                times[name].append((spent[0], spent[1]))
    rows = []
    for name, values in times.items():
        ratios = [loop / ours for ours, loop in values]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        medians = [statistics.median(column) for column in zip(*values, strict=True)]
        rows.append({"what": name, "ours_ms": medians[0], "loop_ms": medians[1], "rounds": rounds,
                     "times_faster": statistics.median(ratios), "quartiles": [low, high]})  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| what | classes | ours ms | loop ms | loop / ours | quartiles |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        low, high = row["quartiles"]
        cells = [row["what"], str(row["classes"]), f"{row['ours_ms']:.1f}", f"{row['loop_ms']:.1f}"]
        cells += [f"{row['times_faster']:.1f}", f"{low:.1f} - {high:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150])
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of torch and of OpenCV")
    parser.add_argument("--cpu-time", action="store_true", help=CPU_TIME)
    parser.add_argument("--json", type=Path, help="also write environment, setting and rows to this file")
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error("--rounds must be at least 2: a spread needs two")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    setting = {k: v for k, v in vars(args).items() if k != "json"}
    record: dict[str, Any] = {"environment": environment(), "setting": setting, "rows": []}
    clock = time.process_time if args.cpu_time else time.perf_counter
    for num_classes in args.classes:
        found = measure(variants(args, num_classes), args.rounds, clock)
        record["rows"] += [{"classes": num_classes, **row} for row in found]
    print(table(record["rows"]))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
