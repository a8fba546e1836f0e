#!/usr/bin/env python3
"""IoU, trimap IoU, Boundary IoU and boundary F of predicted label maps. Needs neither Detectron2 nor a config.

python tools/boundary_metrics.py PRED_DIR GT_DIR --num-classes 19 --ignore 255 --widths 1 3 5 9 15 --per-image --json

Files are single-channel images of class ids with the same path in both folders; the extension may differ. What the
figures mean: docs/metrics.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bpkd.metrics import SegmentationMetrics
from bpkd.metrics.folders import describe, pair_files, read_ids


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path, metavar="PRED_DIR")
    parser.add_argument("labels", type=Path, metavar="GT_DIR")
    parser.add_argument("--num-classes", type=int, required=True, metavar="K", help="ids are 0..K-1")
    parser.add_argument("--ignore", type=int, default=255, help="label that does not count")
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 3, 5, 9, 15], help="half-widths of the bands, px")
    parser.add_argument("--tolerances", type=int, nargs="+", default=[3], help="of boundary F, px")
    parser.add_argument("--boundary-ratio", type=float, default=0.02, help="Boundary IoU's width over the diagonal")
    parser.add_argument("--absent", choices=("zero", "skip"), default="zero", help="predicted class without a label")
    parser.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="names, for the table")
    parser.add_argument("--pred-suffix", default="", help="end of the predictions' names, where it is no extension")
    parser.add_argument("--gt-suffix", default="", help="the same of the labels, such as _gtFine_labelTrainIds.png")
    parser.add_argument("--per-image", action="store_true", help="also a row of figures per image, worst mIoU first")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args(argv)
    if args.classes and len(args.classes) != args.num_classes:
        parser.error(f"--classes: expected {args.num_classes} names, got {len(args.classes)}")
    return args


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns the figures of all images together, and of each by name."""
    rules = {"ignore_index": args.ignore, "widths": args.widths, "absent": args.absent}
    rules |= {"boundary_ratio": args.boundary_ratio, "tolerances": args.tolerances}
    whole, single = (SegmentationMetrics(args.num_classes, **rules) for _ in range(2))
    suffixes = {"prediction_suffix": args.pred_suffix, "label_suffix": args.gt_suffix}
    images = {}
    pairs = pair_files(args.predictions, args.labels, **suffixes)
    for name, predicted, label in tqdm(pairs, unit="image", disable=not sys.stderr.isatty()):
        single.reset()
        try:
            single.update(read_ids(predicted), read_ids(label))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        whole.merge_state([single])
        if args.per_image:
            images[name] = single.compute()
    if not whole.counts.any():
        raise ValueError(f"no pixel counts: every label in {args.labels} is --ignore {args.ignore}.")
    return whole.compute(), images


def main(argv: list[str] | None = None) -> int:
    """Measures two folders; returns 1 with a plain message where they do not fit."""
    args = parse(argv)
    try:
        result, images = measure(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        both = {**result, "images": images} if args.per_image else result
        # JSON does not know nan.
        print(json.dumps(json.loads(json.dumps(both), parse_constant=lambda _: None), indent=1))
        return 0
    print(describe(result, args.classes))
    if images:
        band = args.widths[0]
        print(f"\n| image | mIoU | mIoU w={band} | Boundary IoU |\n| --- | ---: | ---: | ---: |")
        for name, own in sorted(images.items(), key=lambda item: item[1]["mIoU"]):
            figures = own["mIoU"], own["trimap"][band]["mIoU"], own["boundary_IoU"]
            print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in figures) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
