#!/usr/bin/env python3
"""Convert a checkpoint of others into ours, or ours into OpenMMLab's.

--source says who wrote it; auto finds it out: mmseg (mmrazor's too), mmcls, mmdet (SOLOv2), solo (SOLOv2's authors),
torchvision, timm, hrnet (HRNet's authors), bpkd.

python tools/convert_checkpoint.py SRC DST --config-file configs/networks/pspnet_r101.yaml
python tools/convert_checkpoint.py OURS DST --to mmseg --config-file configs/networks/pspnet_r18.yaml
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from detectron2.data import MetadataCatalog

from bpkd.config import read_config
from bpkd.convert import (
    SOURCES,
    Conversion,
    as_bpkd,
    as_mmseg,
    check_target,
    convert_checkpoint,
    describe,
    hash_warning,
    pixel_warning,
    write,
)
from bpkd.data import register_datasets
from bpkd.data.catalog import spread_colors
from bpkd.modeling import build_student


def main(argv: list[str] | None = None) -> int:
    """Converts; returns 1 after one line that says why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("src", metavar="SRC", help="checkpoint to read")
    parser.add_argument("dst", metavar="DST", help="file to write")
    parser.add_argument("--source", choices=SOURCES, default="auto", help="who wrote SRC")
    parser.add_argument("--to", choices=("bpkd", "mmseg"), default="bpkd", help="layout of DST")
    parser.add_argument("--config-file", help="of the network; not needed for a ResNet's or MobileNetV2's backbone")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config changes")
    parser.add_argument("--force", action="store_true", help="replace DST")
    args = parser.parse_args(argv)
    try:
        check_target(args.dst, source=args.src, force=args.force)
        cfg = read_config(args.config_file, ["MODEL.DEVICE", "cpu", *args.opts]) if args.config_file else None
        done = convert_checkpoint(args.src, build_student(cfg) if cfg else None, source=args.source)
        content = as_mmseg(done, *dataset_of(cfg, done)) if args.to == "mmseg" else as_bpkd(done)
        write(content, args.dst, source=args.src, force=args.force)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    pixels = (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT) if cfg else None
    warnings = [hash_warning(args.src, done.sha256), pixel_warning(done.pixels, *pixels) if pixels else None]
    print("\n".join([*describe(done), *(f"WARNING: {text}" for text in warnings if text)]))
    use = "MODEL.BACKBONE.WEIGHTS" if done.rules.part == "backbone" else "MODEL.WEIGHTS or TEACHER.WEIGHTS"
    print(f"wrote {args.dst}" + (f", for {use}" if args.to == "bpkd" else ", for OpenMMLab"))
    return 0


def dataset_of(cfg: Any, done: Conversion) -> tuple[list[str] | None, list[Any] | None]:
    """Returns class names and colours for OpenMMLab: the config's data set's, if it has as many classes."""
    if cfg is None or not done.num_classes:
        return None, None
    register_datasets(cfg)
    found = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).as_dict() if cfg.DATASETS.TRAIN else {}
    names, colors = found.get("stuff_classes"), found.get("stuff_colors")
    fits = names and len(names) == done.num_classes
    return (names if fits else None), (colors if fits and colors else spread_colors(done.num_classes))


if __name__ == "__main__":
    sys.exit(main())
