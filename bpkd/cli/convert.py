"""Convert a checkpoint of another project into ours, or ours into OpenMMLab's.

Examples:
  bpkd convert SRC.pth DST.pth --config-file configs/networks/pspnet_r101.yaml
  bpkd convert r18.pth r18_bpkd.pth --source torchvision
  bpkd convert OURS.pth DST.pth --to mmseg --config-file configs/networks/pspnet_r18.yaml
  bpkd convert OURS.pth DST.safetensors --config-file configs/networks/pspnet_r18.yaml

SRC may be a file of torch.save, a .safetensors, Detectron2's .pkl, a .npz, or the index.json of several files. The
suffix of DST chooses: .safetensors, .pkl (for Detectron2), anything else is a file of torch.save.

--source names the project that wrote SRC; auto finds it out: mmseg (mmrazor's too), mmcls, mmdet (SOLOv2), solo
(SOLOv2's authors), torchvision, timm, hrnet (HRNet's authors), detectron2, bpkd. KEY VALUE pairs at the end change the
config.
"""

from __future__ import annotations

from typing import Any

from .parser import Parser, file_arg

SOURCES = ("auto", "mmseg", "mmdet", "solo", "torchvision", "timm", "mmcls", "hrnet", "detectron2", "bpkd")


def parser(prog: str = "bpkd convert") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "SRC DST", __doc__)
    out.add_argument("src", type=file_arg, metavar="SRC", help="checkpoint to read")
    out.add_argument("dst", type=file_arg, metavar="DST", help="file to write")
    out.add_argument("--source", choices=SOURCES, default="auto", help="project that wrote SRC (default auto)")
    out.add_argument("--to", choices=("bpkd", "mmseg"), default="bpkd", help="layout of DST (default bpkd)")
    out.add_argument(
        "--take",
        metavar="NAME",
        default="",
        help="of several networks in SRC: name of the entry (model, model_ema) or beginning of the keys (student)",
    )
    out.add_argument(
        "--config-file",
        type=file_arg,
        metavar="FILE",
        help="config of the network; not needed for a ResNet's or MobileNetV2's backbone",
    )
    out.add_argument("--force", action="store_true", help="replace DST")
    return out


def run(args: Any) -> int:
    """Converts.

    Args:
        args: parsed arguments.
    """
    from bpkd.config import read_config
    from bpkd.convert import (
        as_bpkd,
        as_mmseg,
        check_target,
        convert_checkpoint,
        describe,
        hash_warning,
        pixel_warning,
        write,
    )
    from bpkd.modeling import build_student

    if args.opts and not args.config_file:
        raise ValueError("KEY VALUE: expected --config-file FILE, whose keys they change, got none.")
    check_target(args.dst, source=args.src, force=args.force, to=args.to)
    cfg = read_config(args.config_file, ["MODEL.DEVICE", "cpu", *args.opts]) if args.config_file else None
    done = convert_checkpoint(args.src, build_student(cfg) if cfg else None, source=args.source, take=args.take)
    content = as_mmseg(done, *dataset_of(cfg, done)) if args.to == "mmseg" else as_bpkd(done)
    write(content, args.dst, source=args.src, force=args.force)
    pixels = (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT) if cfg else None
    warnings = [hash_warning(args.src, done.sha256), pixel_warning(done.pixels, *pixels) if pixels else None]
    print("\n".join([*describe(done), *(f"WARNING: {text}" for text in warnings if text)]))
    use = "MODEL.BACKBONE.WEIGHTS" if done.rules.part == "backbone" else "MODEL.WEIGHTS or TEACHER.WEIGHTS"
    print(f"wrote {args.dst}" + (f", for {use}" if args.to == "bpkd" else ", for OpenMMLab"))
    return 0


def dataset_of(cfg: Any, done: Any) -> tuple[list[str] | None, list[Any] | None]:
    """Returns class names and colours for OpenMMLab: the config's data set's, if it has as many classes.

    Args:
        cfg: config of the network, or None.
        done: `bpkd.convert.Conversion`.
    """
    from detectron2.data import MetadataCatalog

    from bpkd.data import register_datasets
    from bpkd.data.catalog import spread_colors

    if cfg is None or not done.num_classes:
        return None, None
    register_datasets(cfg)
    found = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).as_dict() if cfg.DATASETS.TRAIN else {}
    names, colors = found.get("stuff_classes"), found.get("stuff_colors")
    fits = names and len(names) == done.num_classes
    return (names if fits else None), (colors if fits and colors else spread_colors(done.num_classes))
