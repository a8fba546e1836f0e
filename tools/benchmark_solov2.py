"""Time SOLOv2: target assignment beside a loop over the instances, training step and inference of the light R-18.

`python tools/benchmark_solov2.py --what assign --rounds 9 --threads 1 --cpu-time --json bench.json`. With
`--peer-path FOLDER` (holds an importable mmdet with its mmcv and mmengine), training step and inference stand beside
mmdetection's own light R-18, with the same weights and images. Rounds are interleaved; the ratio is the median of the
rounds' own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch.nn import functional as F

try:  # as a script, and as a module of the tests
    from benchmark_metrics import CPU_TIME, measure
    from peer_solov2 import PeerSOLOv2
except ImportError:
    from .benchmark_metrics import CPU_TIME, measure
    from .peer_solov2 import PeerSOLOv2

from bpkd.analysis.records import environment
from bpkd.config import read_config
from bpkd.modeling import build_student
from bpkd.modeling.solov2 import GridAssigner, ImageInstances, SOLOv2, image_instances

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "coco" / "solov2_light_r18.yaml"
WHAT = ("assign", "train", "inference")
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def make_instances(count: int, size: tuple[int, int], seed: int = 0) -> Instances:
    """Ellipses of all sizes on an image, some cut by its border."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), np.uint8)
    for mask in masks:
        axes = np.exp(rng.uniform(np.log(4), np.log(min(size) / 2), 2)).astype(int)
        centre = int(rng.integers(size[1])), int(rng.integers(size[0]))
        cv2.ellipse(mask, centre, (int(axes[0]), int(axes[1])), float(rng.uniform(0, 180)), 0, 360, 1, -1)
    out = Instances(size)
    out.gt_masks = BitMasks(torch.from_numpy(masks))
    out.gt_boxes = Boxes(out.gt_masks.get_bounding_boxes().tensor)
    out.gt_classes = torch.from_numpy(rng.integers(0, 80, count))
    return out


def loop_assign(one: ImageInstances, canvas: tuple[int, int], assigner: GridAssigner) -> list[Any]:
    """The same targets, level by level and instance by instance, as the definition reads.

    Returns:
        Per level the labels [S, S], the pairs' cells and instances, and the pairs' masks at stride 4.
    """
    height, width = canvas
    masks = F.pad(one.masks, (0, width - one.masks.shape[2], 0, height - one.masks.shape[1]))
    sizes = ((one.boxes[:, 2] - one.boxes[:, 0]) * (one.boxes[:, 3] - one.boxes[:, 1])).sqrt()
    ys, xs = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    levels = []
    for grid, (low, high) in zip(assigner.num_grids, assigner.scale_ranges, strict=True):
        labels = torch.full((grid, grid), assigner.num_classes)
        cells, owners, quarters = [], [], []
        for i in ((sizes >= low) & (sizes <= high)).nonzero()[:, 0].tolist():
            mask = masks[i].float()
            if not mask.any():
                continue
            area = mask.sum().double()
            centre = (mask.sum(1).double() @ ys / area, mask.sum(0).double() @ xs / area)
            quarter = F.interpolate(mask[None, None], scale_factor=0.25, mode="bilinear")[0, 0] >= 0.5
            box = one.boxes[i].tolist()
            spans = []
            for c, half, length in zip(centre, (0.1 * (box[3] - box[1]), 0.1 * (box[2] - box[0])), canvas, strict=True):
                own, first, last = (int((v * grid / length + 1e-6) // 1) for v in (c, c - half, c + half))
                spans.append(range(max(0, first, own - 1), min(grid - 1, last, own + 1) + 1))
            for row in spans[0]:
                for column in spans[1]:
                    labels[row, column] = one.classes[i]
                    cells.append(row * grid + column)
                    owners.append(i)
                    quarters.append(quarter)
        levels.append((labels, cells, owners, quarters))
    return levels


def assignment(count: int, size: tuple[int, int], model: SOLOv2) -> Pair:
    """Ours and the loop, on one image.

    Raises:
        RuntimeError: their targets differ: the times would mean nothing.
    """
    one = image_instances(make_instances(count, size), torch.device("cpu"))
    assigner, canvas = model.assigner, (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32)
    assigner.crowded = True  # no warning about this image
    ours, loop = assigner([one], canvas), loop_assign(one, canvas, assigner)
    for mine, (labels, cells, owners, quarters) in zip(ours.levels, loop, strict=True):
        same = torch.equal(mine.labels[0], labels) and mine.cell.tolist() == cells and mine.instance.tolist() == owners
        if not same or (quarters and not torch.equal(ours.quarter_masks[mine.instance], torch.stack(quarters))):
            raise RuntimeError("the loop assigns otherwise")
    return lambda: assigner([one], canvas), lambda: loop_assign(one, canvas, assigner)


def batch(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Noise with seven instances each."""
    rng, size = np.random.default_rng(1), (args.height, args.width)
    return [
        {
            "image": torch.from_numpy(rng.integers(0, 255, (3, *size), dtype=np.uint8)),
            "instances": make_instances(7, size, seed),
        }
        for seed in range(args.batch)
    ]


def network_pair(what: str, args: argparse.Namespace, model: SOLOv2, peer: PeerSOLOv2 | None) -> Pair:
    """A training step (losses and gradients) or inference, ours and the peer's; without a peer, ours twice."""
    items = batch(args)
    if what == "train":
        model.train()

        def ours() -> None:
            sum(model(items).values()).backward()
            model.zero_grad(set_to_none=True)

        return ours, (lambda: peer.train_step(items)) if peer else ours

    @torch.inference_mode()
    def found() -> Any:
        model.eval()
        return model(items)

    return found, (lambda: peer.inference(items)) if peer else found


def pairs(what: str, args: argparse.Namespace, model: SOLOv2, peer: PeerSOLOv2 | None) -> dict[str, Pair]:
    """Ours and another by the other's name."""
    if what != "assign":
        return {"mmdetection" if peer else "ours again": network_pair(what, args, model, peer)}
    size = (args.height, args.width)
    found = {"loop": assignment(args.instances, size, model)}
    if peer:
        canvas, labels = (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32), make_instances(args.instances, size)
        found["mmdetection"] = (found["loop"][0], lambda: peer.assign(labels, canvas))
    return found


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--instances", type=int, default=100, help="on the image of --what assign")
    parser.add_argument("--height", type=int, default=448)
    parser.add_argument("--width", type=int, default=672)
    parser.add_argument("--batch", type=int, default=2, help="images of a training step or inference")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help=CPU_TIME)
    parser.add_argument("--peer-path", type=Path, help="folder that holds mmdet, mmengine and mmcv")
    parser.add_argument("--json", type=Path, help="also write environment, setting and rows to this file")
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error("--rounds must be at least 2: a spread needs two")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    torch.manual_seed(0)
    model = build_student(read_config(str(CONFIG), ["MODEL.DEVICE", "cpu"]))
    assert isinstance(model, SOLOv2)
    torch.nn.init.normal_(model.ins_head.cate_pred.weight, std=0.022)  # hundreds of cells find something
    try:
        peer = PeerSOLOv2(args.peer_path, model) if args.peer_path else None
    except (ImportError, ValueError) as error:
        print(f"error: --peer-path {args.peer_path}: {error}", file=sys.stderr)
        return 1
    clock = time.process_time if args.cpu_time else time.perf_counter
    rows = []
    for what in args.what:
        for other, pair in pairs(what, args, model, peer).items():
            rows += [{**row, "other": other} for row in measure({what: pair}, args.rounds, clock)]
    for row in rows:
        row["other_ms"] = row.pop("loop_ms")
    print(table(rows))
    setting = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "json"}
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(), "setting": setting, "rows": rows}, indent=1))
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| what | beside | ours ms | other ms | other / ours | quartiles |", "|---|---|---:|---:|---:|---|"]
    for row in rows:
        low, high = row["quartiles"]
        times = f"{row['ours_ms']:.1f} | {row['other_ms']:.1f} | {row['times_faster']:.2f}"
        lines.append(f"| {row['what']} | {row['other']} | {times} | {low:.2f} - {high:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
