"""Computes the detected instances of an image from raw outputs, in bounded memory.

Source: Wang et al., "SOLOv2", NeurIPS 2020, section 3.3; mmdetection 3.3.0 for the order of the steps.

`read_off` and `full_masks`, and the functions that they call, are also compiled by TorchScript (`bpkd.export`), which
needs plain lists and no keyword-only arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from bpkd.structures import SOLOv2Outputs

from .nms import check_kernel, decayed, point_nms

# Largest number of pixels of float masks in memory at once.
PIXELS = 32_000_000


class Detection(NamedTuple):
    """Options of the detections; the fields are keys of cfg.MODEL.SOLOV2, and cfg.TEST.DETECTIONS_PER_IMAGE."""

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


def detect(
    outputs: SOLOv2Outputs,
    index: int,
    *,
    content: tuple[int, int],
    size: tuple[int, int],
    strides: Sequence[int],
    options: Detection,
) -> Instances:
    """Returns the detected instances of one image of a batch.

    Args:
        outputs: Raw outputs of the network.
        index: Index of the image in the batch.
        content: (height, width) of the image without padding.
        size: (height, width) of the returned masks.
        strides: Stride of each level; a mask with at most this many pixels at stride 4 is dropped.
        options: Thresholds and limits of the detections.

    Returns:
        Instances with ``pred_masks`` bool [n, height, width], ``scores`` float [n] in descending order,
        ``pred_classes`` int64 [n] and ``pred_boxes``, the bounding boxes of the masks.

    Raises:
        ValueError: the kernel of Matrix NMS is unknown.
    """
    check_kernel(options.nms_kernel)
    features = outputs.mask_features[index].float()
    logits, kernels = ([x[index] for x in maps] for maps in (outputs.category_logits, outputs.kernels))
    own, scores, labels = read_off(logits, kernels, features, list(strides), options, PIXELS)
    masks = full_masks(own, features, content, size, options.mask_threshold, PIXELS)
    result = Instances(size)
    result.pred_masks = masks
    result.pred_boxes = Boxes(BitMasks(masks).get_bounding_boxes().tensor.to(masks.device))
    result.scores, result.pred_classes = scores, labels
    return result


def read_off(
    logits: list[Tensor], kernels: list[Tensor], features: Tensor, strides: list[int], options: Detection, pixels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Chooses the instances of one image: thresholds, point NMS, Matrix NMS.

    Args:
        logits: Category logits [K, S, S] of each level.
        kernels: Mask kernels [E, S, S] of each level.
        features: Mask features [E, h, w] at stride 4, float32.
        strides: Stride of each level.
        options: Thresholds and limits of the detections.
        pixels: Largest number of pixels of float masks in memory at once.

    Returns:
        Kernels [n, E], scores [n] in descending order, and classes [n].
    """
    own, scores, labels, least = _candidates(logits, kernels, strides, options)
    own, scores, labels, masks = _with_masks(own, scores, labels, least, features, options, pixels)
    order = scores.argsort(stable=True, descending=True)[: options.nms_pre]
    own, scores, labels, masks = own[order], scores[order], labels[order], masks[order]
    scores = decayed(masks, labels, scores, options.nms_kernel == "gaussian", options.nms_sigma)
    order = scores.argsort(stable=True, descending=True)
    order = order[scores[order] >= options.keep_threshold][: options.max_per_image]
    return own[order], scores[order], labels[order]


def _candidates(
    logits: list[Tensor], kernels: list[Tensor], strides: list[int], options: Detection
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns kernels [n, E], scores, labels and smallest mask areas of the cells with scores above the threshold."""
    own: list[Tensor] = []
    scores: list[Tensor] = []
    labels: list[Tensor] = []
    least: list[Tensor] = []
    for i in range(len(logits)):
        maps = point_nms(logits[i][None].float().sigmoid())[0].flatten(1).t()  # [S * S, K]
        cell, label = (maps > options.score_threshold).nonzero().unbind(1)
        own.append(kernels[i].float().flatten(1).t()[cell])
        scores.append(maps[cell, label])
        labels.append(label)
        least.append(torch.full_like(label, strides[i]))
    rows = torch.cat(own), torch.cat(scores), torch.cat(labels), torch.cat(least)
    if options.max_candidates > 0 and len(rows[1]) > options.max_candidates:
        best = rows[1].argsort(stable=True, descending=True)[: options.max_candidates].sort()[0]
        return rows[0][best], rows[1][best], rows[2][best], rows[3][best]
    return rows


def _with_masks(
    own: Tensor, scores: Tensor, labels: Tensor, least: Tensor, features: Tensor, options: Detection, pixels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes masks [n, h, w] in chunks, drops small ones and multiplies scores by the masks' mean probability."""
    flat = features.flatten(1)
    step = max(1, pixels // flat.shape[1])
    masks = [torch.zeros(0, features.shape[1], features.shape[2], dtype=torch.bool, device=features.device)]
    kept = [torch.zeros(0, dtype=torch.int64, device=features.device)]
    sure = [scores[:0]]
    for first in range(0, len(own), step):
        soft = (own[first : first + step] @ flat).sigmoid()
        binary = soft > options.mask_threshold
        area = binary.sum(1)
        keep = area > least[first : first + step]
        sure.append((soft * binary).sum(1)[keep] / area[keep])
        masks.append(binary[keep].view(-1, features.shape[1], features.shape[2]))
        kept.append(first + keep.nonzero()[:, 0])
    index = torch.cat(kept)
    return own[index], scores[index] * torch.cat(sure), labels[index], torch.cat(masks)


def full_masks(
    kernels: Tensor,
    features: Tensor,
    content: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.5,
    pixels: int = PIXELS,
) -> Tensor:
    """Computes binary masks at the image's original size, a few at a time.

    Args:
        kernels: Mask kernels [n, E].
        features: Mask features [E, h, w] at stride 4 of the canvas.
        content: (height, width) of the image on the canvas.
        size: Original (height, width) of the image.
        threshold: Probability above which a pixel belongs to the instance.
        pixels: Largest number of pixels of float masks in memory at once.

    Returns:
        bool [n, height, width].
    """
    height, width = features.shape[1], features.shape[2]
    masks = torch.zeros(len(kernels), size[0], size[1], dtype=torch.bool, device=features.device)
    step = max(1, pixels // max(16 * height * width, size[0] * size[1]))
    for first in range(0, len(kernels), step):
        soft = (kernels[first : first + step] @ features.flatten(1)).sigmoid().view(1, -1, height, width)
        canvas = F.interpolate(soft, [4 * height, 4 * width], mode="bilinear", align_corners=False)
        whole = canvas[:, :, : content[0], : content[1]]
        whole = F.interpolate(whole, [size[0], size[1]], mode="bilinear", align_corners=False)
        masks[first : first + step] = whole[0] > threshold
    return masks
