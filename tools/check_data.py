#!/usr/bin/env python3
"""Check a config's data sets before training: files, sizes, ids; print the classes' shares; draw a few pairs.

python tools/check_data.py --config-file configs/camvid/Base-CamVid.yaml --draw 8 --output sheet.png KEY VALUE ...
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from bpkd.config import read_config
from bpkd.data import check_dataset, register_datasets
from bpkd.data.files import read_image, read_label
from bpkd.engine.launch import check_data_sets


def main(argv: list[str] | None = None) -> int:
    """Checks every set of DATASETS.TRAIN and DATASETS.TEST; returns 1 where one is unusable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="first N pairs of the first set to --output")
    parser.add_argument("--output", default="sheet.png")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config changes")
    args = parser.parse_args(argv)
    try:
        cfg = read_config(args.config_file, args.opts)
        register_datasets(cfg)
        check_data_sets(cfg)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = False
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    for name in names:
        try:
            print(f"{name}: {check_dataset(name)} images, all usable")
            print_shares(DatasetCatalog.get(name), MetadataCatalog.get(name))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
    if args.draw and not failed:
        items = DatasetCatalog.get(names[0])[: args.draw]
        cv2.imwrite(args.output, np.concatenate([draw(item, MetadataCatalog.get(names[0])) for item in items]))
        print(f"wrote {args.output}")
    return int(failed)


def print_shares(items: list[dict[str, Any]], metadata: Any) -> None:
    """Prints each class's share of the pixels and the number of images that it occurs in."""
    counts = np.array([np.bincount(read_label(i, metadata.label_table).ravel(), minlength=256) for i in items])
    shares, images = 100 * counts.sum(0) / counts.sum(), (counts > 0).sum(0)
    for index, name in [*enumerate(metadata.stuff_classes), (255, "(ignored)")]:
        print(f"  {index:>3} {name:<20} {shares[index]:6.2f} % of the pixels, in {images[index]} images")


def draw(item: dict[str, Any], metadata: Any) -> np.ndarray:
    """Returns image and coloured labels side by side, BGR, 240 pixels high."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(metadata.stuff_colors)] = np.array(metadata.stuff_colors)[:, ::-1]
    pair = np.concatenate([read_image(item), colors[read_label(item, metadata.label_table)]], 1)
    return cv2.resize(pair, (640, 240), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    sys.exit(main())
