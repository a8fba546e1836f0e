"""Label maps and predictions for tests of edges and metrics."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor


def scenes(num_classes: int, height: int, width: int) -> dict[str, Tensor]:
    """Label maps that are hard in different ways, [2, H, W] each."""
    g = torch.Generator().manual_seed(num_classes * height)
    noise = torch.randint(0, num_classes, (2, height, width), generator=g)
    noise[torch.rand(noise.shape, generator=g) < 0.05] = 255
    coarse = torch.randint(0, num_classes, (2, height // 8 + 1, width // 8 + 1), generator=g)
    blocks = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].clone()
    blocks[:, :, -5:] = 255
    corner = torch.ones(2, height, width, dtype=torch.long)
    corner[:, 0, 0] = 0
    corner[:, -1, width // 2] = 255
    return {
        "noise": noise,
        "blocks": blocks,
        "corner": corner,
        "all ignored": torch.full_like(noise, 255),
        "one class": torch.ones_like(noise),
    }


def blocks(seed: int, shape: tuple[int, int] = (23, 31), num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_classes, (6, 8))
    target = np.kron(coarse, np.ones((5, 5), int))[: shape[0], : shape[1]]
    pred = np.where(rng.random(shape) < 0.8, target, rng.integers(0, num_classes, shape))
    target = np.where(rng.random(shape) < 0.05, 255, target)
    return pred, target


def published_boundary(mask: np.ndarray, ratio: float) -> np.ndarray:
    """boundary-iou-api's definition, restated: pad with background, erode d times with 3x3, subtract."""
    height, width = mask.shape
    distance = max(1, int(round(ratio * np.sqrt(height**2 + width**2))))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    for _ in range(distance):
        padded = cv2.erode(padded, np.ones((3, 3), np.uint8))
        padded[0] = padded[-1] = padded[:, 0] = padded[:, -1] = 0
    return mask & (padded[1:-1, 1:-1] == 0)
