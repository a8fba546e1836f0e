r"""Suggest SOLOv2's grids and scale ranges for a data set in COCO's format, from its objects at the input size.

Examples:
  bpkd suggest-grids --config-file configs/nuclei/solov2_tiny.yaml DATASETS.ROOT data
  bpkd suggest-grids --config-file configs/coco/solov2_light_r18.yaml --samples 500 \
      DATASETS.COCO_FOLDER.NAME mine DATASETS.COCO_FOLDER.ROOT /data/mine DATASETS.TRAIN "('mine_train',)"

DATASETS.TRAIN is checked first, as before training: DATASETS.CHECK fast opens no image, off needs none. KEY VALUE
pairs at the end change the config.
"""

from __future__ import annotations

import random
from typing import Any

from .parser import Parser, file_arg, whole


def parser(prog: str = "bpkd suggest-grids") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "--config-file FILE", __doc__, renamed={"--images": "--samples"})
    out.add_argument("--config-file", type=file_arg, required=True, metavar="FILE", help="config of a SOLOv2 network")
    out.add_argument(
        "--samples", type=whole(1), default=500, metavar="N", help="most images to read, drawn at random (default 500)"
    )
    return out


def run(args: Any) -> int:
    """Prints sizes, what the config's grids do with them, and a suggestion.

    Args:
        args: parsed arguments.
    """
    from detectron2.data import DatasetCatalog

    from bpkd.config import image_range, read_config
    from bpkd.data import check_dataset, register_datasets
    from bpkd.engine.configure import check_data_sets
    from bpkd.modeling.solov2.suggest import QUANTILES, claims, fitting, object_sizes, suggested_ranges, suggestions

    cfg = read_config(args.config_file, args.opts)
    register_datasets(cfg)
    check_data_sets(cfg)
    if cfg.DATASETS.CHECK != "off":  # what training would refuse is no base for its grids
        for name in cfg.DATASETS.TRAIN:
            check_dataset(name, cfg.DATASETS.CHECK, subset=cfg.DATASETS.SUBSET, span=image_range(cfg))
    items = [item for name in cfg.DATASETS.TRAIN for item in DatasetCatalog.get(name) if item.get("annotations")]
    random.Random(0).shuffle(items)
    images = [sized(item, cfg) for item in items[: args.samples]]
    sizes = object_sizes(images) if images else None
    if sizes is None or not len(sizes):  # crowds alone, or objects without a pixel
        raise ValueError(f"DATASETS.TRAIN {list(cfg.DATASETS.TRAIN)}: expected objects that are learned, got none.")
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


def sized(item: dict[str, Any], cfg: Any) -> Any:
    """Returns an image's objects at the training size, without reading the image.

    Args:
        item: dataset dict with ``height``, ``width`` and ``annotations``.
        cfg: INPUT.MIN_SIZE_TRAIN, INPUT.MAX_SIZE_TRAIN.
    """
    from torch import device

    from bpkd.data.instances import instances_at
    from bpkd.modeling.solov2 import image_instances

    found = instances_at(item, cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MAX_SIZE_TRAIN)
    return image_instances(found, device("cpu"))


def show(row: Any) -> None:
    """Prints one setting.

    Args:
        row: `bpkd.modeling.solov2.suggest.Claims`.
    """
    levels = ", ".join(str(n) for n in row.per_level)
    print(
        f"  grids {list(row.grids)}: {100 * row.share:5.1f} % of {row.positive} cells claimed twice, "
        f"objects per level {levels}; {row.lost} of {row.objects} in none"
    )
