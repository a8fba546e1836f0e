"""Check a config's data sets before training: counts, files, sizes, ids; print the classes' shares; draw a few pairs.

Examples:
  bpkd check-data --config-file configs/camvid/Base-CamVid.yaml --draw 8 --output sheet.png
  bpkd check-data --config-file mine.yaml --subset DATASETS.ROOT /data

KEY VALUE pairs at the end change the config. The exit status is 1 where a data set cannot be used.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from bpkd.errors import FAILURE, one_line
from bpkd.files import replacing

from .parser import Parser, file_arg, whole


def parser(prog: str = "bpkd check-data") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "--config-file FILE", __doc__)
    out.add_argument(
        "--config-file", type=file_arg, required=True, metavar="FILE", help="YAML config that names the data sets"
    )
    out.add_argument("--subset", action="store_true", help="accept fewer images than the data set was published with")
    out.add_argument(
        "--draw", type=whole(0), default=8, metavar="N", help="pairs of each set in its picture; 0: none (default 8)"
    )
    out.add_argument(
        "--output",
        type=file_arg,
        default="sheet.png",
        metavar="FILE",
        help="picture of the first set; others add their name",
    )
    return out


def run(args: Any) -> int:
    """Checks every set of DATASETS.TRAIN and DATASETS.TEST; returns 1 where one is unusable.

    Args:
        args: parsed arguments.
    """
    import cv2
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from bpkd.config import image_range, read_config
    from bpkd.data import register_datasets, shared_images, survey_dataset
    from bpkd.data.sheet import contact_sheet
    from bpkd.engine.configure import check_classes, check_data_sets

    logging.getLogger("bpkd.data").addHandler(logging.NullHandler())  # its warnings are the notes printed below
    cfg = read_config(args.config_file, args.opts)
    register_datasets(cfg)
    check_data_sets(cfg)
    try:
        check_classes(cfg)
    except ValueError as error:  # the data may be right all the same
        print(f"note: this config cannot train on it: {error}")
    failed, output = False, Path(args.output)
    if args.draw and not cv2.haveImageWriter(str(output)):
        raise ValueError(f"--output: expected a picture's name, such as sheet.png, got {args.output}.")
    span = image_range(cfg)
    names = list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
    for name in names:
        try:
            subset = args.subset or cfg.DATASETS.SUBSET
            print_survey(name, survey_dataset(name, subset=subset, progress=True, span=span))
        except (ValueError, OSError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            failed = True
            continue
        if args.draw:
            path = output if name == names[0] else output.with_stem(f"{output.stem}_{name}".replace("/", "_"))
            sheet = contact_sheet(DatasetCatalog.get(name), MetadataCatalog.get(name), args.draw, span=span)
            with replacing(path) as part:
                if not cv2.imwrite(str(part), sheet):
                    raise ValueError(
                        f"--output: {path} cannot be written (read-only, or no space). Choose another place."
                    )
            print(f"  wrote {path}")
    if not failed:
        for note in shared_images(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST):
            print(f"note: {note}")
    return FAILURE if failed else 0


def print_survey(name: str, seen: Any) -> None:
    """Prints the number of images, their sizes, and each class's share and the number of images that it occurs in.

    Args:
        name: data set.
        seen: its `bpkd.data.Survey`.
    """
    print(f"{name}: {seen.images} images, all usable")
    for note in seen.notes:
        print(f"  note: {note}")
    common = ", ".join(f"{w}x{h} ({n})" for (h, w), n in seen.sizes.most_common(3))
    if common:
        print(f"  {len(seen.sizes)} size{'s, the most common' if len(seen.sizes) > 1 else ','} {common}")
    rows = [(i, " ".join(label.split())) for i, label in enumerate(seen.classes)]
    if seen.unit == "pixels":
        rows.append((255, "(ignored)"))
    for index, label in rows:
        share = 100 * seen.amounts[index] / max(seen.amounts.sum(), 1)
        print(f"  {index:>3} {label:<20} {share:6.2f} % of the {seen.unit}, in {seen.occurs[index]} images")
    absent = [label for index, label in rows[: len(seen.classes)] if not seen.amounts[index]]
    if absent:
        print(f"  note: {len(absent)} classes never occur: {', '.join(absent[:10])}{', ...' if absent[10:] else ''}")
