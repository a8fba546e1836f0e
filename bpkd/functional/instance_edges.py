"""Edge masks of instances, and how binary and masked logits enter the losses of semantic maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .edges import edge_band

# Pixels of all masks that are looked at together: bounds the memory of images with hundreds of instances.
CHUNK_PIXELS = 1 << 25


def instance_edges(
    masks: Tensor, kernel_size: int, canvas: tuple[int, int], sizes: Sequence[tuple[int, int]], *, iterations: int = 1
) -> list[Tensor]:
    """Edge bands of one image's instances, dilation minus erosion, area-pooled to several sizes.

    The band is computed inside the image's content and then padded with zeros: neither the border of the image nor
    that of the padding is an edge.

    Args:
        masks: bool [n, h, w], at the size of the image's content.
        kernel_size: side of the square window in pixels, odd: the edge width.
        canvas: (H, W) of the padded batch, at least (h, w).
        sizes: (h', w') to pool to; their cells tile the canvas (adaptive average pooling's bins).
        iterations: number of passes of the window, see ``class_edge_mask``.

    Returns:
        One float32 [n, h', w'] in [0, 1] per size: the share of each cell's pixels that are edge.

    Raises:
        ValueError: wrong rank or window, or the canvas is smaller than the masks.

    Example:
        >>> from bpkd.functional import instance_edges
        >>> masks = torch.tensor([[[True, True, False, False]] * 2])
        >>> instance_edges(masks, 3, canvas=(2, 8), sizes=[(1, 8), (1, 2)])
        [tensor([[[0., 1., 1., 0., 0., 0., 0., 0.]]]), tensor([[[0.5000, 0.0000]]])]
    """
    if masks.ndim != 3 or masks.shape[1] > canvas[0] or masks.shape[2] > canvas[1]:
        raise ValueError(
            f"masks: expected [n, h, w] of at most the canvas {tuple(canvas)}, got {tuple(masks.shape)}. Give the "
            "padded size of the batch as the canvas."
        )
    right, below = canvas[1] - masks.shape[2], canvas[0] - masks.shape[1]
    parts: list[list[Tensor]] = [[masks.new_zeros((0, *size), dtype=torch.float32)] for size in sizes]
    rows = max(1, CHUNK_PIXELS // (canvas[0] * canvas[1]))
    for start in range(0, len(masks), rows):
        band = edge_band(masks[start : start + rows].to(torch.uint8), kernel_size, iterations=iterations)
        padded = F.pad(band, (0, right, 0, below)).float()
        for found, size in zip(parts, sizes, strict=True):
            found.append(F.adaptive_avg_pool2d(padded[:, None], size)[:, 0])
    return [torch.cat(found) for found in parts]


def content_share(content: tuple[int, int], canvas: tuple[int, int], size: tuple[int, int], like: Tensor) -> Tensor:
    """Returns float32 [h', w']: the share of each cell's pixels that belong to the image and not to its padding.

    Args:
        content: (h, w) of the image without padding.
        canvas: (H, W) of the padded batch.
        size: (h', w') of the result.
        like: tensor on the wanted device.

    Example:
        >>> from bpkd.functional import content_share
        >>> content_share((2, 3), canvas=(2, 4), size=(1, 2), like=torch.zeros(()))
        tensor([[1.0000, 0.5000]])
    """
    sides = [
        F.adaptive_avg_pool1d((torch.arange(whole, device=like.device) < inside).float()[None], cells)[0]
        for inside, whole, cells in zip(content, canvas, size, strict=True)
    ]
    return torch.outer(sides[0], sides[1])


def merged_edges(edges: Tensor, classes: Tensor | None = None, num_classes: int = 0) -> Tensor:
    """Maximum over the instances of a level: one map for all, or one per class.

    Args:
        edges: edge masks [n, h, w] of a level's instances, n may be 0.
        classes: [n] class of each instance; None: one map for all classes.
        num_classes: number of classes K.

    Returns:
        [1, h, w], or [K, h, w]; zero where there is no instance.

    Example:
        >>> from bpkd.functional import merged_edges
        >>> edges = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])
        >>> merged_edges(edges)
        tensor([[[1.0000, 0.5000]]])
        >>> merged_edges(edges, torch.tensor([1, 0]), num_classes=2).flatten(1)
        tensor([[0.5000, 0.5000],
                [1.0000, 0.0000]])
    """
    _, height, width = edges.shape
    index = edges.new_zeros(len(edges), dtype=torch.long) if classes is None else classes.long()
    out = edges.new_zeros((1 if classes is None else num_classes, height * width))
    if len(edges):
        out = out.scatter_reduce(0, index[:, None].expand(-1, height * width), edges.flatten(1), "amax")
    return out.view(-1, height, width)


def grid_edges(labels: Tensor) -> Tensor:
    """Edges of a label grid itself: cells whose 3 x 3 neighbours do not all have one label.

    Args:
        labels: [N, S, S] class of each cell, the background being one more class.

    Returns:
        float32 [N, 1, S, S], 0 or 1.

    Example:
        >>> from bpkd.functional import grid_edges
        >>> grid_edges(torch.tensor([[[0, 0, 0, 1]] * 4]))[0, 0, 0]
        tensor([0., 0., 1., 1.])
    """
    return edge_band(labels, 3, ignore_index=-1)[:, None].float()


def binary_logits(logits: Tensor) -> Tensor:
    """Two-class logits (x / 2, -x / 2) [n, 2, h, w] of [n, h, w]: their softmax is (sigmoid(x), 1 - sigmoid(x)).

    Example:
        >>> from bpkd.functional import binary_logits
        >>> binary_logits(torch.tensor([[[2.0]]])).softmax(1).flatten()
        tensor([0.8808, 0.1192])
    """
    half = logits / 2
    return torch.stack([half, -half], 1)


def outside_region(logits: Tensor, region: Tensor, fill: float = -1e4) -> Tensor:
    """Takes the positions outside a region out of every softmax: over positions their share is 0, over classes equal.

    Args:
        logits: [n, C, h, w] logits of student or teacher; both have to be treated alike.
        region: bool [n, h, w], true inside.
        fill: value outside, in all channels.

    Returns:
        [n, C, h, w]; no gradient outside.

    Example:
        >>> from bpkd.functional import outside_region
        >>> outside_region(torch.ones(1, 1, 1, 2), torch.tensor([[[True, False]]])).flatten(2).softmax(2)
        tensor([[[1., 0.]]])
    """
    return logits.masked_fill(~region[:, None], fill)
