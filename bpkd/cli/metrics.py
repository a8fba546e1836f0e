"""Measure predicted label maps: IoU, trimap IoU, Boundary IoU, boundary F. Needs neither Detectron2 nor a config.

Examples:
  bpkd metrics PRED_DIR GT_DIR --num-classes 19 --widths 1 3 5 9 15 --per-image
  bpkd metrics PRED_DIR GT_DIR --num-classes 19 --json figures.json
  bpkd metrics PRED_DIR gtFine/val --num-classes 19 --label-suffix _gtFine_labelTrainIds.png

Files are single-channel images of class ids with the same path in both folders; the extension may differ. What the
figures mean: docs/reference/metrics.md.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from .parser import Parser, path_arg, whole, write_json

RENAMED = {"--ignore": "--ignore-index", "--pred-suffix": "--prediction-suffix", "--gt-suffix": "--label-suffix"}


def parser(prog: str = "bpkd metrics") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "PRED_DIR GT_DIR --num-classes K", __doc__, overrides=False, renamed=RENAMED)
    out.add_argument("predictions", type=path_arg, metavar="PRED_DIR", help="folder of predicted label maps")
    out.add_argument("labels", type=path_arg, metavar="GT_DIR", help="folder of ground truth")
    out.add_argument("--num-classes", type=whole(1), required=True, metavar="K", help="number of classes; ids 0..K-1")
    out.add_argument(
        "--ignore-index", type=int, default=255, metavar="ID", help="label that does not count (default 255)"
    )
    out.add_argument(
        "--widths",
        type=whole(1),
        nargs="+",
        default=[1, 3, 5, 9, 15],
        metavar="W",
        help="half-widths of the trimap in pixels (default 1 3 5 9 15)",
    )
    out.add_argument(
        "--tolerances",
        type=whole(1),
        nargs="+",
        default=[3],
        metavar="T",
        help="tolerances of boundary F in pixels (default 3)",
    )
    out.add_argument(
        "--boundary-ratio",
        type=float,
        default=0.02,
        metavar="R",
        help="Boundary IoU's width as a share of the image's diagonal (default 0.02)",
    )
    out.add_argument("--absent", choices=("zero", "skip"), default="zero", help="predicted class without a label")
    out.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="names of the classes, for the table")
    out.add_argument("--prediction-suffix", default="", metavar="END", help="end of the predictions' file names")
    out.add_argument("--label-suffix", default="", metavar="END", help="end of the labels' file names")
    out.add_argument("--per-image", action="store_true", help="also a row of figures per image, worst mIoU first")
    out.add_json("write the figures as JSON instead of printing tables")
    return out


def mistake(args: Any) -> str:
    """Returns an error message about a combination of arguments; "" if there is none.

    Args:
        args: parsed arguments.
    """
    if args.classes and len(args.classes) != args.num_classes:
        return f"--classes: expected {args.num_classes} names, got {len(args.classes)}."
    return ""


def run(args: Any) -> int:
    """Measures two folders.

    Args:
        args: parsed arguments.
    """
    from bpkd.metrics.folders import describe

    result, images = measure(args)
    if args.json:
        both = {**result, "images": images} if args.per_image else result
        # JSON does not know nan.
        write_json(json.loads(json.dumps(both), parse_constant=lambda _: None), args.json)
        return 0
    print(describe(result, args.classes))
    if images:
        band = args.widths[0]
        print(f"\n| image | mIoU | mIoU w={band} | Boundary IoU |\n| --- | ---: | ---: | ---: |")
        for name, own in sorted(images.items(), key=lambda item: item[1]["mIoU"]):
            figures = own["mIoU"], own["trimap"][band]["mIoU"], own["boundary_IoU"]
            print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in figures) + " |")
    return 0


def measure(args: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns the figures of all images together, and of each image by name.

    Args:
        args: parsed arguments.

    Raises:
        ValueError: files do not pair, cannot be read, or hold no pixel that counts.
    """
    from tqdm import tqdm

    from bpkd.metrics import SegmentationMetrics
    from bpkd.metrics.folders import pair_files, read_ids

    rules = {"ignore_index": args.ignore_index, "widths": args.widths, "absent": args.absent}
    rules |= {"boundary_ratio": args.boundary_ratio, "tolerances": args.tolerances}
    whole_set, single = (SegmentationMetrics(args.num_classes, **rules) for _ in range(2))
    suffixes = {"prediction_suffix": args.prediction_suffix, "label_suffix": args.label_suffix}
    images = {}
    pairs = pair_files(args.predictions, args.labels, **suffixes)
    for name, predicted, label in tqdm(pairs, unit="image", disable=not sys.stderr.isatty()):
        single.reset()
        try:
            single.update(read_ids(predicted), read_ids(label))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        whole_set.merge_state([single])
        if args.per_image:
            images[name] = single.compute()
    if not whole_set.counts.any():
        raise ValueError(f"no pixel counts: every label in {args.labels} is --ignore-index {args.ignore_index}.")
    return whole_set.compute(), images
