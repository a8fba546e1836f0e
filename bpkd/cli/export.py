r"""Write a trained network as TorchScript, torch.export program or ONNX, checked against the network.

Examples:
  bpkd export student.onnx --config-file configs/camvid/small_student.yaml \
      --weights output/camvid-small/bpkd/model_final.pth --size 180 240
  bpkd export student.ts --config-file X.yaml --weights W.pth

The file takes normalised images (the command prints mean, deviation and colour order) and returns the raw scores of the
decode head: resize them to the image (bilinear) and take the largest. The suffix chooses: .onnx, .pt2 (torch.export),
.ts or .pt (TorchScript). All but .onnx also state classes, mean, deviation and colour order, for TEACHER.EXPORTED.

SOLOv2: the file takes padded images and returns the raw heads, category logits and kernels per level and mask features;
.onnx for one image of --size, .ts and .pt for any size. With --nms a .ts or .pt returns scores, classes and masks.
KEY VALUE pairs at the end change the config.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bpkd.errors import did_you_mean
from bpkd.tasks import INSTANCE, SEMANTIC

from .parser import Parser, file_arg, whole

KINDS = (".onnx", ".pt2", ".ts", ".pt")


def parser(prog: str = "bpkd export") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "FILE --config-file FILE --weights FILE", __doc__)
    out.add_argument("output", type=file_arg, metavar="FILE", help="file to write: .onnx, .pt2, .ts or .pt")
    out.add_argument(
        "--config-file",
        type=file_arg,
        required=True,
        metavar="FILE",
        help="config of the network, or of the pair it was distilled in",
    )
    out.add_argument(
        "--weights",
        type=file_arg,
        required=True,
        metavar="FILE",
        help="its checkpoint; the auxiliary head is left out",
    )
    out.add_argument(
        "--size",
        nargs=2,
        type=whole(1),
        default=[512, 512],
        metavar=("H", "W"),
        help="size of the example image (default 512 512)",
    )
    out.add_argument("--any-size", action="store_true", help=".onnx or .pt2 for any size (TorchScript always is)")
    out.add_argument("--nms", action="store_true", help="SOLOv2, TorchScript: up to the instances, by Matrix NMS")
    return out


def mistake(args: Any) -> str:
    """Returns an error message about a combination of arguments; "" if there is none.

    Args:
        args: parsed arguments.
    """
    kind = Path(args.output).suffix
    if kind in KINDS:
        return ""
    return f"FILE: expected a name that ends in .onnx, .pt2, .ts or .pt, got {args.output}.{did_you_mean(kind, KINDS)}"


def run(args: Any) -> int:
    """Exports.

    Args:
        args: parsed arguments.
    """
    from bpkd.config import image_range, read_config

    cfg = read_config(args.config_file, ["MODEL.DEVICE", "cpu", *args.opts])
    span = list(image_range(cfg))
    error = write(args, cfg, Path(args.output).suffix, (args.size[0], args.size[1]))
    node = cfg.MODEL
    print(f"wrote {args.output}; its scores differ from the network's by at most {error:.1g} of their deviation")
    print(f"images: {cfg.INPUT.FORMAT}, minus {list(node.PIXEL_MEAN)}, over {list(node.PIXEL_STD)}, of values 0..255")
    if any(span):
        print(f"above 8 bits: the values {span} become 0 and 255 first (INPUT.IMAGE_RANGE)")
    return 0


def write(args: Any, cfg: Any, kind: str, size: tuple[int, int]) -> float:
    """Writes the file; returns its difference from the network.

    Args:
        args: parsed arguments.
        cfg: config of the network.
        kind: suffix of the file.
        size: height and width of the example image.

    Raises:
        ValueError: the network cannot be written in this way.
    """
    from bpkd.modeling import build_student

    model = build_student(cfg).eval()
    return WRITERS[model.task](args, model, kind, size, cfg.MODEL.FILE_STATEMENTS)


def _write_instances(args: Any, model: Any, kind: str, size: tuple[int, int], statements: str) -> float:
    from bpkd.convert import load_strict
    from bpkd.export import solov2_to_onnx, solov2_to_torchscript

    if kind == ".pt2" or (kind == ".onnx" and (args.any_size or args.nms)):
        raise ValueError("SOLOv2: expected .ts or .pt, or .onnx for one size without --nms.")
    classes = load_strict(model, args.weights, source="--weights", statements=statements).classes
    if kind == ".onnx":
        return solov2_to_onnx(model, args.output, size)
    return solov2_to_torchscript(model, args.output, size, classes=classes, nms=args.nms)


def _write_semantic(args: Any, model: Any, kind: str, size: tuple[int, int], statements: str) -> float:
    from bpkd.convert import load_strict
    from bpkd.export import to_exported_program, to_onnx, to_torchscript

    if args.nms:
        raise ValueError("--nms: expected SOLOv2, got a network for label maps.")
    model.drop_auxiliary()
    drop = ("auxiliary_head.",)
    classes = load_strict(model, args.weights, source="--weights", drop=drop, statements=statements).classes
    if kind == ".onnx":
        return to_onnx(model, args.output, size, any_size=args.any_size)
    if kind == ".pt2":
        return to_exported_program(model, args.output, size, any_size=args.any_size, classes=classes)
    return to_torchscript(model, args.output, size, classes=classes)


WRITERS = {SEMANTIC: _write_semantic, INSTANCE: _write_instances}
