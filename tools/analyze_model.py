#!/usr/bin/env python
"""Prints what networks cost: parameters, FLOPs, activations and, on request, latency.

    tools/analyze_model.py --config-file configs/networks/pspnet_r18.yaml configs/networks/isanet_r18.yaml
    tools/analyze_model.py --config-file X --size 512 1024 --latency cpu cuda --json
    tools/analyze_model.py --table2
    tools/analyze_model.py --table4 --json

The convention is that of the paper's table: parameters with the auxiliary head; FLOPs without it, in evaluation, one
multiply-add = 1, with one resize of the scores to the image's size. Counted are convolutions, batch norms, bilinear
resizes, adaptive poolings and matrix products.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from bpkd.analysis.complexity import cost_table, count, latency
from bpkd.analysis.paper import TABLE2, TABLE4, table2_rows
from bpkd.config import read_config
from bpkd.modeling import build_student, predicts_instances
from bpkd.modeling.solov2 import count_parameters

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NETWORKS = CONFIGS / "networks"


def main(argv: list[str] | None = None) -> int:
    """Counts each config's network (the student, where the config distils)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", nargs="+", metavar="YAML")
    what.add_argument("--table2", action="store_true", help="the paper's eight networks beside the paper's figures")
    what.add_argument("--table4", action="store_true", help="parameters of the SOLOv2 networks, part by part")
    parser.add_argument("--size", nargs=2, type=positive, metavar=("H", "W"), help="default 512 512")
    parser.add_argument("--latency", nargs="+", default=[], choices=("cpu", "cuda"), help="time a pass on these")
    parser.add_argument("--batch", type=positive, default=1, help="images per pass of --latency")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a Markdown table")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config changes for all")
    args = parser.parse_args(argv)
    if (args.table2 or args.table4) and (args.size or args.latency or args.opts):
        parser.error("--table2 or --table4 is the paper's setting: it goes with --json alone")
    if "cuda" in args.latency and not torch.cuda.is_available():
        parser.error("--latency cuda: there is no GPU that torch can use")
    args.size = args.size or [512, 512]
    try:
        rows = tables(args) if args.table2 or args.table4 else [analyse(path, args) for path in args.config_file]
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(rows, indent=1) if args.json else cost_table(map(shown, rows) if args.config_file else rows))
    return 0


def analyse(path: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the counts of one config's network."""
    cfg = read_config(path, ["MODEL.DEVICE", "cpu", *args.opts])
    model = build_student(cfg)
    size = (args.size[0], args.size[1])
    head = cfg.MODEL.SOLOV2 if predicts_instances(cfg) else cfg.MODEL.SEM_SEG_HEAD
    row = {"config": path, "classes": head.NUM_CLASSES, **count(model, size, activations=True).row()}
    row["latency"] = {device: latency(model, size, device=device, batch=args.batch) for device in args.latency}
    return row


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the columns of the table."""
    cells = {"config": row["config"], "classes": row["classes"], "size": "{}x{}".format(*row["size"])}
    cells |= {"params M": row["params"] / 1e6, "FLOPs G": row["flops"] / 1e9, "activations M": row["activations"] / 1e6}
    for device, time in row["latency"].items():
        how = f"{time['threads']:.0f} threads, " if device == "cpu" else ""
        cells[f"{device} ms ({how}batch {time['batch']:.0f})"] = float(time["median_ms"])
    return cells


def positive(text: str) -> int:
    """Parses a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return value


def tables(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the rows of the paper's table that is asked for."""
    return table2(args.json) if args.table2 else table4()


def table4() -> list[dict[str, Any]]:
    """Counts the parameters of the SOLOv2 networks; weights of frozen norms, which are buffers, are told apart."""
    rows = []
    for name in TABLE4:
        model = build_student(read_config(str(CONFIGS / "coco" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu"]))
        rows.append({"network": name, **count_parameters(model)})
    return rows


def table2(as_json: bool) -> list[dict[str, Any]]:
    """Counts the networks of Table 2 at its 150 classes and 512 x 512."""
    costs = {}
    for name in TABLE2:
        opts = ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "150"]
        cost = count(build_student(read_config(str(NETWORKS / f"{name}.yaml"), opts)))
        costs[name] = (cost.params / 1e6, cost.flops / 1e9)
    if as_json:
        return [{"network": name, "params_m": params, "flops_g": flops} for name, (params, flops) in costs.items()]
    return table2_rows(costs)


if __name__ == "__main__":
    raise SystemExit(main())
