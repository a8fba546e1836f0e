"""Small configs, batches and checkpoints for the tests of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from bpkd.config import get_bpkd_cfg
from bpkd.modeling import build_student

CLASSES = ("sky", "road", "tree", "car", "pole")
TINY = """
MODEL:
  DEVICE: cpu
  RESNET_V1C: {DEPTH: 18, WIDTH_MULTIPLIER: 0.125}
  SEM_SEG_HEAD: {CHANNELS: 16, NUM_CLASSES: 5, DROPOUT: 0.0}
  AUX_HEAD: {CHANNELS: 8}
DATASETS: {TRAIN: [tiny_networks_train]}
INPUT: {CROP_SIZE: [40, 48]}
"""
TORCHVISION = """
MODEL:
  DEVICE: cpu
  META_ARCHITECTURE: ModuleSegmentor
  MODULE:
    FACTORY: "torchvision.models.segmentation:lraspp_mobilenet_v3_large"
    KWARGS: [[weights, null], [weights_backbone, null], [num_classes, 5]]
  SEM_SEG_HEAD: {NUM_CLASSES: 5}
DATASETS: {TRAIN: [tiny_networks_train]}
INPUT: {CROP_SIZE: [40, 48]}
"""


def register(name: str = "tiny_networks_train", classes: tuple[str, ...] = CLASSES) -> None:
    metadata = MetadataCatalog.get(name)
    if metadata.get("stuff_classes") is None:
        metadata.set(stuff_classes=list(classes))


def tiny_cfg(*opts: Any, text: str = TINY) -> CfgNode:
    register()
    cfg = get_bpkd_cfg()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    cfg.merge_from_list(list(opts))
    return cfg


def save_teacher(folder: Path, *, text: str = TINY, seed: int = 1, classes: Any = CLASSES) -> list[str]:
    """Writes teacher.yaml and teacher.pth; returns the options that name them."""
    (folder / "teacher.yaml").write_text(text)
    torch.manual_seed(seed)
    model = build_student(tiny_cfg(text=text))
    for name, parameter in model.named_parameters():
        if "bn" in name and name.endswith("weight"):  # zero-initialised branches would make it trivial
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    for parameter in model.parameters():
        if parameter.dim() == 4 and parameter.shape[0] == 5:  # the classifier: scores worth distilling
            torch.nn.init.normal_(parameter, std=0.5)
    data = {"model": model.state_dict(), "bpkd": {"classes": list(classes)} if classes else {}}
    torch.save(data, folder / "teacher.pth")
    return [
        *("TEACHER.CONFIG_FILE", str(folder / "teacher.yaml")),
        *("TEACHER.WEIGHTS", str(folder / "teacher.pth")),
    ]


def batch(count: int = 2, size: tuple[int, int] = (40, 48), seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    items = []
    for i in range(count):
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        label = torch.randint(0, 5, (size[0] // 8 + 1, size[1] // 8 + 1), generator=generator)
        label = label.repeat_interleave(8, 0).repeat_interleave(8, 1)[: size[0], : size[1]]
        image = image // 4 + (label * 40).to(torch.uint8)  # something to learn
        label[:3] = 255
        items.append({"image": image, "sem_seg": label, "file_name": f"{i}.png"})
    return items
