"""The golden SOLOv2 numbers: files, weights made from names alone, networks, and the toy images' labels."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from bpkd.config import read_config
from bpkd.convert.rules import recognise, rename
from bpkd.modeling import build_student
from bpkd.modeling.solov2 import SOLOv2
from bpkd.structures import SOLOv2Outputs

REPO = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "solov2"
CANVAS = (256, 384)
GRIDS = (40, 36, 24, 16, 12)
RANGES = {
    "light": ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896)),
    "normal": ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
}


def numbers(*names: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in names:
        out |= dict(np.load(GOLDEN / f"{name}.npz"))
    return out


def table(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def filled_state(keys: dict[str, list[int]], *, deformable: bool = False) -> dict[str, Tensor]:
    """Weights made from mmdetection's key and shape alone (the README of the golden files)."""
    state = {}
    for key, shape in keys.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
        if key.endswith(("running_mean", "bias")):
            n = 0.1 * n
        elif key.endswith("running_var"):
            n = 1 + 0.1 * np.abs(n)
        elif len(shape) >= 2:
            n = n * np.sqrt(2 / np.prod(shape[1:]))
        else:
            n = 1 + 0.1 * n
        if deformable and key.startswith("backbone.layer") and key.endswith("bn3.weight"):
            n = 0.2 * n
        if deformable and key.endswith("conv_offset.weight"):
            n = 0.1 * n
        state[key] = torch.from_numpy(np.asarray(n, dtype=np.float32))
    return state


def network(name: str, *opts: Any) -> SOLOv2:
    cfg = read_config(str(REPO / "configs" / "coco" / f"solov2_{name}.yaml"), ["MODEL.DEVICE", "cpu", *opts])
    model = build_student(cfg)
    assert isinstance(model, SOLOv2)
    return model.eval()


def filled_network(name: str) -> SOLOv2:
    model = network(name)
    state = filled_state(table(f"keys_mmdet_solov2_{name}"), deformable="dcn" in name)
    model.load_state_dict(rename(state, recognise(state)).state, strict=True)
    return model


def toy(image: str, num_classes: int = 0) -> Instances:
    """The labels of "im0" or "im1"; with ``num_classes``, the classes modulo it."""
    data = numbers("targets")
    boxes, labels = data[f"{image}_boxes"], data[f"{image}_labels"]
    masks = np.unpackbits(data[f"{image}_masks_packed"], axis=1).reshape(-1, *CANVAS)
    height, width = (int(v) for v in data[f"{image}_size"])
    out = Instances((height, width))
    out.gt_boxes = Boxes(torch.from_numpy(boxes))
    out.gt_classes = torch.from_numpy(labels % num_classes if num_classes else labels).long()
    out.gt_masks = BitMasks(torch.from_numpy(masks[:, :height, :width]).bool())
    return out


FORWARDS = {"light_r18": (7, (1, 3, 128, 160), 4, 8, 4), "x101_dcn": (8, (1, 3, 128, 128), 8, 16, 8)}


@torch.no_grad()
def forward_differences(model: SOLOv2, name: str, device: str = "cpu") -> tuple[dict[str, float], SOLOv2Outputs]:
    """Compares a filled network's maps with mmdetection's.

    Returns:
        By map: the largest difference over what is allowed (1e-3 of 1 + the value for the backbone's, 1e-4 for the
        heads'), so that 1 is just allowed; and the network's outputs.
    """
    seed, shape, categories, kernels, features = FORWARDS[name]
    parts = ("maps", "categories", "kernels")
    golden = numbers(*([f"forward_{name}_{p}" for p in parts] if name == "light_r18" else [f"forward_{name}"]))
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32)).to(device)
    out, stages, pyramid = model.raw_outputs(x), model.backbone.bottom_up(x), model.backbone(x)
    found = {f"c{i}": (stages[f"res{i}"][:, ::32, ::2, ::2], 1e-3) for i in range(2, 6)}
    found |= {f"p{i}": (pyramid[f"p{i}"][:, ::16, ::2, ::2], 1e-3) for i in range(2, 7)}
    for level, (logits, own) in enumerate(zip(out.category_logits, out.kernels, strict=True)):
        found[f"cls_l{level}"] = (logits[:, ::categories], 1e-4)
        found[f"kernel_l{level}"] = (own[:, ::kernels], 1e-4)
    found["mask_feats"] = (out.mask_features[:, ::features], 1e-4)
    apart = {}
    for key, (value, tolerance) in found.items():
        want = torch.from_numpy(golden[key])
        assert value.shape == want.shape
        apart[key] = float(((value.cpu() - want).abs() / (tolerance * (1 + want.abs()))).max())
    return apart, out
