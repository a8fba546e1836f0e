"""Count what networks cost: parameters, FLOPs, activations and, on request, the time of a pass.

Examples:
  bpkd analyze --config-file configs/networks/pspnet_r18.yaml configs/networks/isanet_r18.yaml
  bpkd analyze --config-file X.yaml --size 512 1024 --latency cpu cuda --json cost.json
  bpkd analyze --table2

The convention is that of the paper's table: parameters with the auxiliary head; FLOPs without it, in evaluation, one
multiply-add = 1, with one resize of the scores to the image's size. Counted are convolutions, batch norms, bilinear
resizes, adaptive poolings and matrix products. KEY VALUE pairs at the end change every config.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .parser import Parser, file_arg, whole, write_json

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def parser(prog: str = "bpkd analyze") -> Parser:
    """Returns the parser of the command.

    Args:
        prog: command as a user types it.
    """
    out = Parser(prog, "(--config-file FILE [FILE ...] | --table2 | --table4)", __doc__)
    what = out.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--config-file", nargs="+", type=file_arg, metavar="FILE", help="configs; of a pair the student is counted"
    )
    what.add_argument("--table2", action="store_true", help="the paper's eight networks beside the paper's figures")
    what.add_argument("--table4", action="store_true", help="parameters of the SOLOv2 networks, part by part")
    out.add_argument("--size", nargs=2, type=whole(1), metavar=("H", "W"), help="size of the image (default 512 512)")
    out.add_argument("--latency", nargs="+", default=[], choices=("cpu", "cuda"), help="devices to time a pass on")
    out.add_argument("--batch", type=whole(1), default=1, metavar="N", help="images per pass of --latency (default 1)")
    out.add_json("write the counts as JSON instead of printing a table")
    return out


def mistake(args: Any) -> str:
    """Returns an error message about a combination of arguments; "" if there is none.

    Args:
        args: parsed arguments.
    """
    paper = args.table2 or args.table4
    if paper and (args.size or args.latency or args.opts):
        return "--table2 or --table4 is the paper's setting: it goes with --json alone."
    if paper and not CONFIGS.is_dir():
        return "--table2, --table4: expected a checkout with configs/, got the installed package alone."
    return ""


def run(args: Any) -> int:
    """Counts each config's network (the student, where the config distils).

    Args:
        args: parsed arguments.
    """
    import torch

    from bpkd.analysis.complexity import cost_table

    if "cuda" in args.latency and not torch.cuda.is_available():
        raise ValueError("--latency cuda: there is no GPU that torch can use.")
    args.size = args.size or [512, 512]
    if args.table2:
        rows = table2(bool(args.json))
    else:
        rows = table4() if args.table4 else [analyse(path, args) for path in args.config_file]
    if args.json:
        write_json(rows, args.json)
        return 0
    print(cost_table([shown(row) for row in rows] if args.config_file else rows))
    return 0


def analyse(path: str, args: Any) -> dict[str, Any]:
    """Returns the counts of one config's network.

    Args:
        path: config.
        args: parsed arguments.
    """
    from bpkd.analysis.complexity import count, latency
    from bpkd.config import read_config
    from bpkd.modeling import build_student, task_of

    cfg = read_config(path, ["MODEL.DEVICE", "cpu", *args.opts])
    model = build_student(cfg)
    size = (args.size[0], args.size[1])
    row = {"config": path, "classes": task_of(cfg).num_classes(cfg), **count(model, size, activations=True).row()}
    row["latency"] = {device: latency(model, size, device=device, batch=args.batch) for device in args.latency}
    return row


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the columns of the table.

    Args:
        row: counts of one network.
    """
    cells = {"config": row["config"], "classes": row["classes"], "size": "{}x{}".format(*row["size"])}
    cells |= {"params M": row["params"] / 1e6, "FLOPs G": row["flops"] / 1e9, "activations M": row["activations"] / 1e6}
    for device, time in row["latency"].items():
        how = f"{time['threads']:.0f} threads, " if device == "cpu" else ""
        cells[f"{device} ms ({how}batch {time['batch']:.0f})"] = float(time["median_ms"])
    return cells


def table4() -> list[dict[str, Any]]:
    """Counts the parameters of the SOLOv2 networks; weights of frozen norms, which are buffers, are counted apart."""
    from bpkd.analysis.paper import TABLE4
    from bpkd.config import read_config
    from bpkd.modeling import build_student
    from bpkd.modeling.solov2 import count_parameters

    rows = []
    for name in TABLE4:
        model = build_student(read_config(str(CONFIGS / "coco" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"]))
        rows.append({"network": name, **count_parameters(model)})
    return rows


def table2(as_json: bool) -> list[dict[str, Any]]:
    """Counts the networks of Table 2 at its 150 classes and 512 x 512.

    Args:
        as_json: plain counts instead of the table's columns.
    """
    from bpkd.analysis.complexity import count
    from bpkd.analysis.paper import TABLE2, table2_rows
    from bpkd.config import read_config
    from bpkd.modeling import build_student

    costs = {}
    for name in TABLE2:
        opts = ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "150"]
        cost = count(build_student(read_config(str(CONFIGS / "networks" / f"{name}.yaml"), opts)))
        costs[name] = (cost.params / 1e6, cost.flops / 1e9)
    if as_json:
        return [{"network": name, "params_m": params, "flops_g": flops} for name, (params, flops) in costs.items()]
    return table2_rows(costs)
