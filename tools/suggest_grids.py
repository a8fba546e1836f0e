#!/usr/bin/env python3
"""Suggest SOLOv2's grids and scale ranges for a data set in COCO's format, from its objects at the config's input size.

python tools/suggest_grids.py --config-file configs/coco/solov2_light_r18.yaml --images 500 \
    DATASETS.COCO_FOLDER.NAME mine DATASETS.COCO_FOLDER.ROOT /data/mine DATASETS.TRAIN "('mine_train',)"
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import annotations_to_instances, transform_instance_annotations
from torch import device

from bpkd.config import read_config
from bpkd.data import register_datasets
from bpkd.data.instances import shortest_side
from bpkd.modeling.solov2 import ImageInstances, image_instances
from bpkd.modeling.solov2.suggest import (
    QUANTILES,
    Claims,
    claims,
    fitting,
    object_sizes,
    suggested_ranges,
    suggestions,
)


def main(argv: list[str] | None = None) -> int:
    """Prints sizes, what the config's grids do with them, and a suggestion; returns 1 where the set cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--images", type=int, default=500, help="images that are looked at, drawn at random")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config changes")
    args = parser.parse_args(argv)
    try:
        cfg = read_config(args.config_file, args.opts)
        register_datasets(cfg)
        items = [item for name in cfg.DATASETS.TRAIN for item in DatasetCatalog.get(name) if item["annotations"]]
        random.Random(0).shuffle(items)
        images = [sized(item, cfg) for item in items[: args.images]]
        sizes = object_sizes(images) if images else None
        if sizes is None:
            raise ValueError(f"DATASETS.TRAIN {list(cfg.DATASETS.TRAIN)}: expected objects, got none.")
    except (KeyError, ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    side, longest = cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MAX_SIZE_TRAIN
    print(f"{len(images)} of {len(items)} images with objects, {len(sizes)} objects, input {side} (at most {longest})")
    shares = sizes.quantile(sizes.new_tensor(QUANTILES)).tolist()
    print("sqrt(box area): " + ", ".join(f"{100 * q:g} % {v:.0f}" for q, v in zip(QUANTILES, shares, strict=True)))
    node = cfg.MODEL.SOLOV2
    print("\nthe config's own:")
    show(claims(images, node.NUM_GRIDS, node.SCALE_RANGES))
    print("\nranges that fit the sizes:")
    rows = suggestions(images, suggested_ranges(sizes))
    for row in rows:
        show(row)
    best = fitting(rows)
    print(f"\nMODEL:\n  SOLOV2:\n    NUM_GRIDS: {list(best.grids)}")
    print(f"    SCALE_RANGES: {[[int(v) for v in bounds] for bounds in best.ranges]}")
    return 0


def sized(item: dict[str, Any], cfg: CfgNode) -> ImageInstances:
    """Returns an image's objects at the training size, without reading the image."""
    side, longest = cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MAX_SIZE_TRAIN
    transform = shortest_side(item["height"], item["width"], side, longest)
    height, width = transform.new_h, transform.new_w
    found = [
        transform_instance_annotations(dict(a), [transform], (height, width))
        for a in item["annotations"]
        if not a.get("iscrowd")
    ]
    return image_instances(annotations_to_instances(found, (height, width), "bitmask"), device("cpu"))


def show(row: Claims) -> None:
    """Prints one setting."""
    levels = ", ".join(str(n) for n in row.per_level)
    print(
        f"  grids {list(row.grids)}: {100 * row.share:5.1f} % of {row.positive} cells claimed twice, "
        f"objects per level {levels}; {row.lost} of {row.objects} in none"
    )


if __name__ == "__main__":
    sys.exit(main())
