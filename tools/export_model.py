#!/usr/bin/env python3
"""Write a trained network as TorchScript, torch.export program or ONNX, checked against the network.

    tools/export_model.py --config-file configs/camvid/small_student.yaml \
        --weights output/camvid-small/bpkd/model_final.pth student.onnx --size 180 240

The file takes normalised images (the tool prints mean, deviation and colour order) and returns the raw scores of the
decode head: resize them to the image (bilinear) and take the largest. The suffix chooses: .onnx, .pt2 (torch.export),
.ts or .pt (TorchScript). All but .onnx also state classes, mean, deviation and colour order, for TEACHER.EXPORTED.

SOLOv2: the file takes padded images and returns the raw heads, category logits and kernels per level and mask features;
.onnx for one image of --size, .ts and .pt for any size. With --nms a .ts or .pt returns scores, classes and masks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from detectron2.config import CfgNode

from bpkd.config import read_config
from bpkd.convert import load_strict
from bpkd.export import (
    solov2_to_onnx,
    solov2_to_torchscript,
    to_exported_program,
    to_onnx,
    to_torchscript,
)
from bpkd.modeling import SOLOv2, build_student


def write(args: argparse.Namespace, cfg: CfgNode, kind: str, size: tuple[int, int]) -> float:
    """Writes the file; returns its difference from the network."""
    model = build_student(cfg).eval()
    if isinstance(model, SOLOv2):
        if kind == ".pt2" or (kind == ".onnx" and (args.any_size or args.nms)):
            raise ValueError("SOLOv2: expected .ts or .pt, or .onnx for one size without --nms.")
        classes = load_strict(model, args.weights, source="--weights").classes
        if kind == ".onnx":
            return solov2_to_onnx(model, args.output, size)
        return solov2_to_torchscript(model, args.output, size, classes=classes, nms=args.nms)
    if args.nms:
        raise ValueError("--nms: expected SOLOv2, got a network for label maps.")
    model.drop_auxiliary()
    classes = load_strict(model, args.weights, source="--weights", drop=("auxiliary_head.",)).classes
    if kind == ".onnx":
        return to_onnx(model, args.output, size, any_size=args.any_size)
    if kind == ".pt2":
        return to_exported_program(model, args.output, size, any_size=args.any_size, classes=classes)
    return to_torchscript(model, args.output, size, classes=classes)


def main(argv: list[str] | None = None) -> int:
    """Exports; returns 1 after one line that says why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="FILE", help="to write: .onnx, .pt2, .ts or .pt")
    parser.add_argument("--config-file", required=True, help="of the network, or of the pair it was distilled in")
    parser.add_argument("--weights", required=True, help="its checkpoint; the auxiliary head is left out")
    parser.add_argument("--size", nargs=2, type=int, default=[512, 512], metavar=("H", "W"), help="of the example")
    parser.add_argument("--any-size", action="store_true", help=".onnx or .pt2 for any size (TorchScript always is)")
    parser.add_argument("--nms", action="store_true", help="SOLOv2, TorchScript: up to the instances, by Matrix NMS")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config changes")
    args = parser.parse_args(argv)
    kind, size = Path(args.output).suffix, (args.size[0], args.size[1])
    if min(size) < 1:
        parser.error(f"--size: expected two whole numbers above 0, got {args.size}")
    if kind not in (".onnx", ".pt2", ".ts", ".pt"):
        parser.error(f"FILE: expected a name that ends in .onnx, .pt2, .ts or .pt, got {args.output}")
    try:
        cfg = read_config(args.config_file, ["MODEL.DEVICE", "cpu", *args.opts])
        error = write(args, cfg, kind, size)
    except (ValueError, ImportError, OSError) as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    node = cfg.MODEL
    print(f"wrote {args.output}; its scores differ from the network's by at most {error:.1g} of their deviation")
    print(f"images: {cfg.INPUT.FORMAT}, minus {list(node.PIXEL_MEAN)}, over {list(node.PIXEL_STD)}, of values 0..255")
    return 0


if __name__ == "__main__":
    sys.exit(main())
