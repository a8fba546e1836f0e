"""The class edge masks in Triton."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from bpkd.functional.reference.labels import check_labels
from bpkd.functional.structures import EdgeMap, EdgeWindow

from . import mask_kernels as kernels
from .losses import on_device, warps

CELL_PIXELS = 128  # of a program's row of cells
COLUMNS = 512  # of a program of the first kernel, four a thread


def write_edges(labels: Tensor, targets: Sequence[Tensor], window: EdgeWindow, numbers: Tensor | None = None) -> None:
    """Writes every share of [N, H, W] integer labels into the maps, float32 [N, K, h, w] each; these need no zeros.

    A label that is neither a class nor ignored counts as another label and has no map. The cells that are not zero are
    added up in ``numbers``, int32 [N, K], where it is given.
    """
    labels = labels.contiguous()
    (n, height, width), classes = labels.shape, targets[0].shape[1]
    groups = triton.cdiv(classes, kernels.GROUP.value)
    words = torch.empty(groups, n, height, width, dtype=torch.int32, device=labels.device)
    block = min(COLUMNS, triton.next_power_of_2(width))
    rules = {"ignored": window.ignore_index, "SIDE": window.side, "TRANSPARENT": window.transparent}
    with on_device(labels):
        kernels.columns_kernel[(n * height, triton.cdiv(width, block), groups)](
            labels, words, n * height, width, classes, **rules, BLOCK=block, num_warps=max(1, block // 128)
        )
        for target in targets:
            h, w = target.shape[2:]
            pixels = triton.next_power_of_2(triton.cdiv(width, w) + (1 if width % w else 0))
            cells = max(1, min(triton.next_power_of_2(w), CELL_PIXELS // pixels))
            kernels.cells_kernel[(n * h, triton.cdiv(w, cells), groups)](
                *(words, labels, target, numbers, n, height, width, h, w, classes),
                **rules,
                PIXELS=pixels,
                ROWS=max(1, 255 // pixels) if pixels < 256 else 255,
                BLOCK=cells,
                num_warps=max(warps(8 * pixels * cells), 2),
            )


def class_edge_masks(
    labels: Tensor, num_classes: int, sizes: Sequence[tuple[int, int]], window: EdgeWindow
) -> list[Tensor]:
    """See ``bpkd.functional.class_edge_mask``; one mask per size."""
    _check(labels, num_classes, window)
    masks = [labels.new_empty((len(labels), num_classes, *size), dtype=torch.float32) for size in sizes]
    write_edges(labels, masks, window)
    return masks


def class_edges(labels: Tensor, num_classes: int, size: tuple[int, int], window: EdgeWindow) -> EdgeMap:
    """See ``bpkd.functional.class_edges``; the dense mask with its counts."""
    _check(labels, num_classes, window)
    mask = labels.new_empty((len(labels), num_classes, *size), dtype=torch.float32)
    counts = labels.new_zeros((len(labels), num_classes), dtype=torch.int32)
    write_edges(labels, [mask], window, counts)
    return EdgeMap(mask, counts)


def _check(labels: Tensor, num_classes: int, window: EdgeWindow) -> None:
    if labels.device.type == "cpu":  # on a GPU this would wait for the queue
        check_labels(labels, num_classes, window.ignore_index)
