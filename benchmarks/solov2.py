"""Time SOLOv2: target assignment beside a loop over the instances, training step and inference of the light R-18.

`python -m benchmarks.solov2 --what assign --rounds 9 --cpu-time --json bench.json`. With `--peer-root FOLDER` (holds an
importable mmdet with its mmcv and mmengine), training step and inference stand beside mmdetection's own light R-18,
with the same weights and images. The ratio is the median of the rounds' own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks import harness
from benchmarks.harness import ROOT, Call, pair_of
from benchmarks.metrics import benchmark
from benchmarks.peers.solov2 import PeerSOLOv2
from benchmarks.scenes import make_instances
from bpkd.config import read_config
from bpkd.modeling import build_student
from bpkd.modeling.solov2 import GridAssigner, ImageInstances, SOLOv2, image_instances

CONFIG = ROOT / "configs" / "coco" / "solov2_light_r18.yaml"
WHAT = ("assign", "train", "inference")
COLUMNS = {
    "what": "{what}",
    "beside": "{other}",
    "ours ms": "{ours_ms:.1f}",
    "other ms": "{other_ms:.1f}",
    "other / ours": "{times_faster:.2f}",
    "quartiles": pair_of("quartiles", ".2f"),
}
Pair = tuple[Call, Call]


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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the arguments."""
    parser = harness.make_parser(__doc__, rounds=9, peers="folder that holds mmdet, mmengine and mmcv")
    parser.set_defaults(threads=1)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT), help="what to time")
    parser.add_argument("--instances", type=int, default=100, help="instances on the image of --what assign")
    parser.add_argument("--height", type=int, default=448, help="of the images")
    parser.add_argument("--width", type=int, default=672, help="of the images")
    parser.add_argument("--batch", type=int, default=2, help="images of a training step or inference")
    return harness.parse(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    args = parse(argv)
    cv2.setNumThreads(args.threads)
    torch.manual_seed(0)
    model = build_student(read_config(str(CONFIG), ["MODEL.DEVICE", "cpu"]))
    assert isinstance(model, SOLOv2)
    torch.nn.init.normal_(model.ins_head.cate_pred.weight, std=0.022)  # hundreds of cells find something
    try:
        peer = PeerSOLOv2(args.peer_root, model) if args.peer_root else None
    except (ImportError, ValueError) as error:
        print(f"error: --peer-root {args.peer_root}: {error}", file=sys.stderr)
        return 1
    record = harness.new_record(args)
    for what in args.what:
        for other, (ours, theirs) in pairs(what, args, model, peer).items():
            row = benchmark(what, ours, theirs, args)
            record["rows"].append({**row, "other_ms": row.pop("loop_ms"), "other": other})
    print(harness.table(COLUMNS, record["rows"]))
    harness.write_record(args.json, record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
