"""Measure predicted label maps: IoU, trimap IoU, Boundary IoU, boundary F. Needs neither Detectron2 nor a config.

Examples:
  bpkd metrics PRED_DIR GT_DIR --num-classes 19 --widths 1 3 5 9 15 --per-image
  bpkd metrics PRED_DIR GT_DIR --num-classes 19 --json figures.json
  bpkd metrics PRED_DIR gtFine/val --num-classes 19 --label-suffix _gtFine_labelTrainIds.png

Files are single-channel images of class ids, or .npy arrays, with the same path in both folders; the extension may
differ. Masks of 0 and 255: --id-map 255:1 (labels) and --prediction-id-map 255:1. What the figures mean:
docs/reference/metrics.md.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bpkd.ranges import Range

from .parser import Parser, number, path_arg, whole, write_json

# Label that takes no part where none is given.
IGNORE = 255
RENAMED = {"--ignore": "--ignore-index", "--pred-suffix": "--prediction-suffix", "--gt-suffix": "--label-suffix"}


def parser(prog: str = "bpkd metrics") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "PRED_DIR GT_DIR --num-classes K", __doc__, overrides=False, renamed=RENAMED)
    out.add_argument("predictions", type=path_arg, metavar="PRED_DIR", help="folder of predicted label maps")
    out.add_argument("labels", type=path_arg, metavar="GT_DIR", help="folder of ground truth")
    _add_rules(out)
    out.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="names of the classes, for the table")
    out.add_argument("--prediction-suffix", default="", metavar="END", help="end of the predictions' file names")
    out.add_argument("--label-suffix", default="", metavar="END", help="end of the labels' file names")
    out.add_argument("--per-image", action="store_true", help="also a row of figures per image, worst mIoU first")
    out.add_json("write the figures as JSON instead of printing tables")
    return out


def _add_rules(out: Parser) -> None:
    """Adds the options that figures depend on."""
    out.add_argument("--num-classes", type=whole(1), required=True, metavar="K", help="number of classes; ids 0..K-1")
    out.add_argument(
        "--ignore-index",
        type=int,
        metavar="ID",
        help="label that does not count (default 255; one that is given is not questioned)",
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
        type=number(Range(above=0, high=1)),
        default=0.02,
        metavar="R",
        help="Boundary IoU's width as a share of the image's diagonal (default 0.02)",
    )
    out.add_argument(
        "--absent",
        choices=("zero", "skip"),
        default="zero",
        help="a class that is predicted but occurs in no label: IoU 0, or left out of the means (default zero)",
    )
    out.add_argument(
        "--id-map", type=pair, nargs="+", default=[], metavar="FROM:TO", help="values of the labels that mean other ids"
    )
    out.add_argument(
        "--prediction-id-map", type=pair, nargs="+", default=[], metavar="FROM:TO", help="the same of the predictions"
    )
    out.add_argument(
        "--argmax", action="store_true", help="predictions are .npy of scores [K, H, W]; the largest one is the id"
    )


class pair:  # noqa: N801 - a type of argparse, which prints the name
    """Parses FROM:TO, two whole numbers."""

    def __new__(cls, text: str) -> Any:
        """Returns (from, to); raises argparse.ArgumentTypeError for anything else."""
        first, _, second = text.partition(":")
        try:
            return int(first), int(second)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected FROM:TO, two whole numbers, got {text!r}") from None


def mistake(args: Any) -> str:
    """Returns an error message about a combination of arguments; "" if there is none.

    Args:
        args: parsed arguments.
    """
    if args.classes and len(args.classes) != args.num_classes:
        return f"--classes: expected {args.num_classes} names, got {len(args.classes)}."
    if args.ignore_index is None and args.num_classes > IGNORE:
        return f"--ignore-index: expected one outside of 0..{args.num_classes - 1}, got none: {IGNORE} is a class here."
    return ""


def run(args: Any) -> int:
    """Measures two folders.

    Args:
        args: parsed arguments.
    """
    from bpkd.metrics.tables import describe, image_rows

    result, images, notes = measure(args)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if args.json:
        more = {"classes": args.classes} if args.classes else {}
        more |= {"images": images} if args.per_image else {}
        write_json({**result, **more}, args.json)
        return 0
    print(describe(result, args.classes))
    if images:
        print(f"\n{image_rows(images, width=args.widths[0], rule=args.absent)}")
    return 0


def measure(args: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]], list[str]]:
    """Returns the figures of all images together, those of each image by name, and notes on the files.

    Args:
        args: parsed arguments.

    Raises:
        ValueError: files do not pair, hold no ids or no pixel that counts, or an ignored label looks like a class.
    """
    from tqdm import tqdm

    from bpkd.metrics import SegmentationMetrics
    from bpkd.metrics.folders import ARRAYS, EXTENSIONS, pair_files
    from bpkd.metrics.ignored import IgnoredRegions, covers_regions
    from bpkd.metrics.maps import MapReader
    from bpkd.metrics.swallowed import swallowed_class

    ignored = IGNORE if args.ignore_index is None else args.ignore_index
    rules = {"ignore_index": ignored, "widths": args.widths, "absent": args.absent}
    rules |= {"boundary_ratio": args.boundary_ratio, "tolerances": args.tolerances}
    whole_set, single = (SegmentationMetrics(args.num_classes, **rules) for _ in range(2))
    files: dict[str, Any] = {"extensions": EXTENSIONS + ARRAYS, "label_extensions": EXTENSIONS + ARRAYS}
    files |= {"prediction_suffix": args.prediction_suffix, "label_suffix": args.label_suffix}
    predictions = MapReader(argmax=args.num_classes * args.argmax, id_map=dict(args.prediction_id_map))
    labels = MapReader(id_map=dict(args.id_map))
    images, without, regions = {}, [], IgnoredRegions(args.num_classes)
    pairs = pair_files(args.predictions, args.labels, **files)
    for name, predicted, labelled in tqdm(pairs, unit="image", disable=not sys.stderr.isatty()):
        single.reset()
        try:
            label = labels.read(labelled)
            single.update(predictions.read(predicted, label.shape), label)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        whole_set.merge_state([single])
        present = single.counts.sum(1).nonzero().flatten().numpy()
        regions.add(name, present, covers_regions(label == ignored, len(present)))
        if single.unlabelled:
            without.append(name)
        if args.per_image:
            images[name] = single.compute()
    if not whole_set.counts.any():
        raise ValueError(f"no pixel counts: every label in {args.labels} is --ignore-index {ignored}.")
    doubt, refused = swallowed_class(whole_set, explicit=args.ignore_index is not None, regions=regions)
    if refused:
        raise ValueError(f"{args.labels}: {doubt}")
    notes = [*_notes(predictions, labels, without), *([doubt] if doubt else [])]
    return whole_set.compute(), images, notes


def _notes(predictions: Any, labels: Any, without: list[str]) -> list[str]:
    """Returns sentences on what was unusual about the files."""
    found = []
    for reader, what, option in ((predictions, "prediction", "--prediction-id-map"), (labels, "label", "--id-map")):
        found += [f"{count} {what}s: {note}." for note, count in reader.notes.items()]
        found += [f"{option}: {value} occurs in no {what}." for value in reader.unused()]
    if without:
        names = ", ".join(without[:5]) + (", ..." if without[5:] else "")
        found.append(f"{len(without)} images hold no labelled pixel and count nowhere: {names}.")
    return found
