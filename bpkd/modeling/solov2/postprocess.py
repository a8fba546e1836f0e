"""From raw outputs to instances of one image, in bounded memory.

Source: Wang et al., "SOLOv2", NeurIPS 2020, section 3.3; mmdetection 3.3.0 for the order of the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from bpkd.structures import SOLOv2Outputs

from .heads import resize
from .nms import matrix_nms, point_nms

# Pixels of float masks that are held at once.
PIXELS = 32_000_000


@dataclass(frozen=True)
class Detection:
    """How instances are read off; the keys are those of cfg.MODEL.SOLOV2 and cfg.TEST.DETECTIONS_PER_IMAGE."""

    score_threshold: float = 0.1
    """Category scores above this are candidates."""

    mask_threshold: float = 0.5
    max_candidates: int = 1000
    """Candidates by falling category score whose masks are computed; 0: all."""

    nms_pre: int = 500
    """Candidates by falling score that enter Matrix NMS."""

    nms_kernel: str = "gaussian"
    nms_sigma: float = 2.0
    keep_threshold: float = 0.05
    """Scores after Matrix NMS of at least this are kept."""

    max_per_image: int = 100


@dataclass(frozen=True)
class _Found:
    kernels: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    """[n, h, w] bool at stride 4."""

    def __getitem__(self, index: Tensor) -> _Found:
        return _Found(self.kernels[index], self.scores[index], self.labels[index], self.masks[index])


def detect(
    outputs: SOLOv2Outputs,
    index: int,
    *,
    content: tuple[int, int],
    size: tuple[int, int],
    strides: Sequence[int],
    options: Detection,
) -> Instances:
    """Returns the instances of one image of a batch.

    Args:
        outputs: of the network.
        index: of the image.
        content: (height, width) of the image without padding.
        size: (height, width) of the result.
        strides: of the levels; a mask at stride 4 with at most this many pixels is dropped.
        options: thresholds and limits.

    Returns:
        Instances with ``pred_masks`` bool [n, height, width], ``scores`` float [n] falling, ``pred_classes`` int64 [n]
        and ``pred_boxes``, tight around the masks.
    """
    features = outputs.mask_features[index].float()
    found = _with_masks(_candidates(outputs, index, strides, options), features, options)
    found = found[found.scores.argsort(descending=True, stable=True)[: options.nms_pre]]
    scores = matrix_nms(found.masks, found.labels, found.scores, kernel=options.nms_kernel, sigma=options.nms_sigma)
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= options.keep_threshold][: options.max_per_image]
    masks = full_masks(found.kernels[order], features, content=content, size=size, threshold=options.mask_threshold)
    result = Instances(size)
    result.pred_masks = masks
    result.pred_boxes = Boxes(BitMasks(masks).get_bounding_boxes().tensor.to(masks.device))
    result.scores, result.pred_classes = scores[order], found.labels[order]
    return result


def _candidates(
    outputs: SOLOv2Outputs, index: int, strides: Sequence[int], options: Detection
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kernels [n, E], scores, labels and the smallest areas of what scores above the threshold."""
    kernels, scores, labels, least = [], [], [], []
    for logits, own, stride in zip(outputs.category_logits, outputs.kernels, strides, strict=True):
        maps = point_nms(logits[index : index + 1].float().sigmoid())[0].flatten(1).T  # [S * S, K]
        cell, label = (maps > options.score_threshold).nonzero(as_tuple=True)
        kernels.append(own[index].float().flatten(1).T[cell])
        scores.append(maps[cell, label])
        labels.append(label)
        least.append(torch.full_like(label, stride))
    rows = [torch.cat(part) for part in (kernels, scores, labels, least)]
    if options.max_candidates and len(rows[1]) > options.max_candidates:
        best = rows[1].argsort(descending=True, stable=True)[: options.max_candidates].sort().values
        rows = [part[best] for part in rows]
    return rows[0], rows[1], rows[2], rows[3]


def _with_masks(rows: tuple[Tensor, Tensor, Tensor, Tensor], features: Tensor, options: Detection) -> _Found:
    """Computes masks in chunks; drops small ones and multiplies scores by how sure the masks are."""
    flat = features.flatten(1)
    parts = []
    for kernels, scores, labels, least in zip(*(part.split(_chunk(flat.shape[1])) for part in rows), strict=True):
        soft = (kernels @ flat).sigmoid()
        binary = soft > options.mask_threshold
        area = binary.sum(1)
        keep = area > least
        sure = (soft * binary).sum(1)[keep] / area[keep]
        masks = binary[keep].view(-1, *features.shape[-2:])
        parts.append(_Found(kernels[keep], scores[keep] * sure, labels[keep], masks))
    if not parts:
        return _Found(*rows[:3], torch.zeros(0, *features.shape[-2:], dtype=torch.bool, device=features.device))
    fields = ("kernels", "scores", "labels", "masks")
    return _Found(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))


def full_masks(
    kernels: Tensor, features: Tensor, *, content: tuple[int, int], size: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Computes masks at the image's original size, a few at a time.

    Args:
        kernels: [n, E].
        features: [E, h, w] at stride 4 of the canvas.
        content: (height, width) of the image on the canvas.
        size: original (height, width).
        threshold: of the soft masks.

    Returns:
        bool [n, height, width].
    """
    height, width = features.shape[-2:]
    masks = torch.zeros(len(kernels), *size, dtype=torch.bool, device=features.device)
    step = _chunk(max(16 * height * width, size[0] * size[1]))
    for first in range(0, len(kernels), step):
        soft = (kernels[first : first + step] @ features.flatten(1)).sigmoid().view(1, -1, height, width)
        canvas = resize(soft, (4 * height, 4 * width))[..., : content[0], : content[1]]
        masks[first : first + step] = resize(canvas, size)[0] > threshold
    return masks


def _chunk(pixels: int) -> int:
    return max(1, PIXELS // pixels)
