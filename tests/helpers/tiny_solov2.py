"""A small SOLOv2, a teacher of it on disk, and batches of drawn objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances

from bpkd.config import get_bpkd_cfg
from bpkd.modeling import SOLOv2

TINY = """
MODEL:
  DEVICE: cpu
  META_ARCHITECTURE: SOLOv2
  BACKBONE: {NAME: build_deform_resnet_fpn_backbone, FREEZE_AT: 0}
  RESNETS:
    DEPTH: 50
    RES2_OUT_CHANNELS: 32
    WIDTH_PER_GROUP: 8
    STEM_OUT_CHANNELS: 16
    OUT_FEATURES: [res2, res3, res4, res5]
    STRIDE_IN_1X1: False
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 32}
  SOLOV2:
    NUM_CLASSES: 4
    NUM_GRIDS: [10, 9, 6, 4, 3]
    NUM_CONVS: 1
    CHANNELS: 32
    MASK_CHANNELS: 32
    KERNEL_CHANNELS: 32
    SCALE_RANGES: [[1, 14], [7, 28], [14, 56], [28, 112], [56, 224]]
DISTILL: {STUDENT: SOLOv2}
"""
# The teacher is wider where widths may differ, and has other ranges.
WIDER = {
    "MODEL.SOLOV2.KERNEL_CHANNELS": 64,
    "MODEL.SOLOV2.SCALE_RANGES": [[1, 24], [12, 48], [24, 96], [48, 192], [96, 512]],
}
OBJECTS = ((8, 10, 30, 44, 0), (20, 40, 58, 86, 1), (2, 60, 10, 70, 2), (40, 4, 60, 20, 3))


def tiny_cfg(*opts: Any) -> CfgNode:
    cfg = get_bpkd_cfg()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(TINY))
    cfg.merge_from_list(list(opts))
    return cfg


def save_teacher(folder: Path, *opts: Any, seed: int = 1) -> list[str]:
    """Writes teacher.yaml and teacher.pth; returns the options that name them."""
    cfg = tiny_cfg(*(opts or [x for pair in WIDER.items() for x in pair]))
    (folder / "teacher.yaml").write_text(cfg.dump())
    torch.manual_seed(seed)
    model = SOLOv2(cfg)
    # Scores and masks that are worth distilling: at the start they all lie at their prior.
    torch.nn.init.normal_(model.ins_head.cate_pred.weight, std=0.3)
    torch.nn.init.normal_(model.ins_head.kernel_pred.weight, std=0.3)
    torch.save({"model": model.state_dict(), "bpkd": {}}, folder / "teacher.pth")
    return ["TEACHER.CONFIG_FILE", str(folder / "teacher.yaml"), "TEACHER.WEIGHTS", str(folder / "teacher.pth")]


def instances(objects: Any, size: tuple[int, int]) -> Instances:
    """Ellipses in boxes (top, left, bottom, right, class)."""
    height, width = size
    masks = torch.zeros(len(objects), height, width, dtype=torch.bool)
    ys, xs = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    for mask, (top, left, bottom, right, _) in zip(masks, objects, strict=True):
        y, x = (ys - (top + bottom) / 2) / ((bottom - top) / 2), (xs - (left + right) / 2) / ((right - left) / 2)
        mask.copy_(y * y + x * x <= 1)
    out = Instances(size)
    out.gt_masks = BitMasks(masks)
    out.gt_boxes = Boxes(torch.tensor([[o[1], o[0], o[3], o[2]] for o in objects], dtype=torch.float32).reshape(-1, 4))
    out.gt_classes = torch.tensor([o[4] for o in objects], dtype=torch.long)
    return out


def batch(*counts: int, size: tuple[int, int] = (62, 90), seed: int = 0, zoom: float = 2.0) -> list[dict[str, Any]]:
    """One image per count, with so many of OBJECTS; ``teacher_image`` is ``zoom`` times as large."""
    generator, items = torch.Generator().manual_seed(seed), []
    for i, count in enumerate(counts):
        image = torch.randint(0, 80, (3, *size), generator=generator).float()
        found = instances(OBJECTS[:count], size)
        for mask, label in zip(found.gt_masks.tensor, found.gt_classes, strict=True):
            image[:, mask] += 40 + 30 * float(label)
        large = torch.nn.functional.interpolate(image[None], scale_factor=zoom, mode="bilinear")[0]
        items.append(
            {
                "image": image.to(torch.uint8),
                "teacher_image": large.to(torch.uint8),
                "instances": found,
                "file_name": f"{i}.png",
            }
        )
    return items
