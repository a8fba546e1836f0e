#!/usr/bin/env python3
"""Check a config's data sets before training: counts, files, sizes, ids; print the classes' shares; draw a few pairs.

python tools/check_data.py --config-file configs/camvid/Base-CamVid.yaml --draw 8 --output sheet.png KEY VALUE ...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
from detectron2.data import DatasetCatalog, MetadataCatalog

from bpkd.config import read_config
from bpkd.data import Survey, register_datasets, survey_dataset
from bpkd.data.sheet import contact_sheet
from bpkd.engine.launch import check_classes, check_data_sets


def main(argv: list[str] | None = None) -> int:
    """Checks every set of DATASETS.TRAIN and DATASETS.TEST; returns 1 where one is unusable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--subset", action="store_true", help="fewer images than published are meant")
    parser.add_argument("--draw", type=int, default=8, metavar="N", help="pairs of each set in its picture; 0: none")
    parser.add_argument("--output", default="sheet.png", help="picture of the first set; others add their name")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config changes")
    args = parser.parse_args(argv)
    try:
        cfg = read_config(args.config_file, args.opts)
        register_datasets(cfg)
        check_data_sets(cfg)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        check_classes(cfg)
    except ValueError as error:  # the data may be right all the same
        print(f"note: this config cannot train on it: {error}")
    failed, output = False, Path(args.output)
    names = list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
    for name in names:
        try:
            print_survey(name, survey_dataset(name, subset=args.subset or cfg.DATASETS.SUBSET, progress=True))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        if args.draw:
            path = output if name == names[0] else output.with_stem(f"{output.stem}_{name}")
            cv2.imwrite(str(path), contact_sheet(DatasetCatalog.get(name), MetadataCatalog.get(name), args.draw))
            print(f"  wrote {path}")
    return int(failed)


def print_survey(name: str, seen: Survey) -> None:
    """Prints the number of images, their sizes, and each class's share and the number of images that it occurs in."""
    print(f"{name}: {seen.images} images, all usable")
    common = ", ".join(f"{w}x{h} ({n})" for (h, w), n in seen.sizes.most_common(3))
    if common:
        print(f"  {len(seen.sizes)} sizes, the most common {common}")
    rows = list(enumerate(seen.classes))
    if seen.unit == "pixels":
        rows.append((255, "(ignored)"))
    for index, label in rows:
        share = 100 * seen.amounts[index] / max(seen.amounts.sum(), 1)
        print(f"  {index:>3} {label:<20} {share:6.2f} % of the {seen.unit}, in {seen.occurs[index]} images")
    absent = [label for index, label in rows[: len(seen.classes)] if not seen.amounts[index]]
    if absent:
        print(f"  note: {len(absent)} classes never occur: {', '.join(absent[:10])}{', ...' if absent[10:] else ''}")


if __name__ == "__main__":
    sys.exit(main())
