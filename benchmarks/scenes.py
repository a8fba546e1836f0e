"""Inputs that several benchmarks share: labels like those of scenes, batches, instances; and plain PyTorch formulas."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


def make_labels(
    batch: int, size: int, num_classes: int, seed: int = 0, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Returns labels [N,H,W]: a dozen overlapping boxes and discs per image, some ignored; alike on every device."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*(torch.arange(size, device=device) for _ in range(2)), indexing="ij")
    labels = torch.zeros(batch, size, size, dtype=torch.long, device=device)
    for image in labels:
        for _ in range(14):
            cy, cx, h, w = (torch.rand(4, generator=generator) * size).tolist()
            inside = ((y - cy).abs() < h / 3) & ((x - cx).abs() < w / 3)
            if torch.rand(1, generator=generator) < 0.5:
                inside = (y - cy) ** 2 + (x - cx) ** 2 < (h / 3) ** 2
            image.masked_fill_(inside, int(torch.randint(num_classes, (1,), generator=generator)))
        image[: size // 40, : size // 3] = IGNORE
    return labels


def make_batch(count: int, size: tuple[int, int], num_classes: int) -> list[dict[str, Tensor]]:
    """Returns a batch as the data loader delivers it: seeded noise and scene-like labels.

    Args:
        count: number of images.
        size: height and width of the images.
        num_classes: number of classes.
    """
    labels = make_labels(count, max(size), num_classes)[:, : size[0], : size[1]].contiguous()
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for _ in labels]
    return [{"image": image, "sem_seg": label} for image, label in zip(images, labels, strict=True)]


def make_pair(height: int, width: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns prediction and label [H, W]: sixty overlapping discs, shifted in the prediction; some ignored."""
    rng = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    for _ in range(60):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(label, centre, int(rng.integers(height // 50, height // 5)), int(rng.integers(num_classes)), -1)
    pred = np.roll(label, 3, axis=1)
    label[: height // 4, : width // 40] = IGNORE
    return pred, label


def make_instances(count: int, size: tuple[int, int], seed: int = 0) -> Any:
    """Returns ellipses of all sizes on an image as Detectron2's ``Instances``, some cut by its border."""
    from detectron2.structures import BitMasks, Boxes, Instances

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


def literal_edge_mask(labels: Tensor, num_classes: int, k: int, size: int) -> Tensor:
    """Returns edge masks by their definition: per class, dilation minus erosion of the one-hot mask.

    One image at a time, for memory: with 150 classes a batch of 4 would need gigabytes.
    """
    masks = []
    for image in labels:
        planes = (image[None] == torch.arange(num_classes, device=image.device)[:, None, None]).float()[None]
        dilated = F.max_pool2d(planes, k, 1, k // 2)
        eroded = -F.max_pool2d(-planes, k, 1, k // 2)
        masks.append(F.adaptive_avg_pool2d(dilated - eroded, size))
    return torch.cat(masks)


def literal_boundary_kd(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Returns 50 edge + 20 body as the formulas are written, the positions' KL repeated over the classes."""
    n, k, h, w = student.shape
    p, q = (F.log_softmax(x * mask, 1) for x in (teacher, student))
    repeated = (p.exp() * (p - q)).sum(1, keepdim=True).repeat(1, k, 1, 1) * mask
    edge = (2.0 * repeated.sum((2, 3)) / (mask > 0).sum((2, 3)).clamp(min=1)).sum(1).mean()
    p, q = (F.log_softmax((x * (1 - mask)).reshape(n * k, h * w), 1) for x in (teacher, student))
    return 50 * edge + 20 / (n * k) * (p.exp() * (p - q)).sum()


def literal_channel_kd(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns mmrazor's ChannelWiseDivergence at temperature 1, step by step as its docstring defines it."""
    n, c = student.shape[:2]
    target, log_target = (f(teacher.flatten(2), 2) for f in (F.softmax, F.log_softmax))
    return (target * log_target - target * F.log_softmax(student.flatten(2), 2)).sum() / (n * c)


def literal_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns torch's cross entropy at label size, averaged over all pixels, ignored ones too (mmsegmentation's)."""
    big = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(big, labels, ignore_index=IGNORE, reduction="sum") / labels.numel()
