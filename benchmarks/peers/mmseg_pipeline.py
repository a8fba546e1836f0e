"""mmsegmentation's training pipeline at a config's settings, for comparisons (docs/results/benchmarks_networks.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.mmseg_networks import import_mmseg
from bpkd.data.augment import TrainAugmentation
from bpkd.data.mapper import TrainMapper

Item = dict[str, Any]
Pipeline = Callable[[Item], Item]
FACTOR = 1.25  # whole numbers for the boxes of the paper's sets, which theirs rounds down


def their_pipeline(augmentation: TrainAugmentation, *, reduce_zero: bool) -> Pipeline:
    """Builds the steps of mmsegmentation 1.x's own configs; normalising and padding come later in both."""
    import_mmseg()
    import mmseg.datasets.transforms  # noqa: F401  registers them
    from mmengine.dataset import Compose
    from mmengine.registry import DefaultScope

    DefaultScope.get_instance("benchmark", scope_name="mmseg")
    steps: list[Item] = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "reduce_zero_label": reduce_zero},
        {"type": "RandomResize", "scale": augmentation.resize_box, "ratio_range": augmentation.scale_range,
         "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": augmentation.crop_size, "cat_max_ratio": augmentation.max_class_share},
        {"type": "RandomFlip", "prob": augmentation.flip_prob},
    ]  # fmt: skip
    if augmentation.distort:
        steps.append({"type": "PhotoMetricDistortion"})
    return Compose([*steps, {"type": "PackSegInputs"}])  # type: ignore[no-any-return]


def reduces_zero(table: Sequence[int]) -> bool:
    """Whether a label table is mmsegmentation's `reduce_zero_label`: 0 ignored, k trained as k - 1."""
    return table[0] == 255 and table[1] == 0


def their_item(item: Item, table: Sequence[int]) -> Item:
    """A dataset dict as mmsegmentation's; a table that is not its zero rule becomes its map of labels."""
    moved = {value: trained for value, trained in enumerate(table) if trained not in (-1, value)}
    reduce_zero = reduces_zero(table)
    return {
        "img_path": item["file_name"],
        "seg_map_path": item["sem_seg_file_name"],
        "label_map": None if reduce_zero or not moved else moved,
        "reduce_zero_label": reduce_zero,
        "seg_fields": [],
    }


def their_tensors(found: Item) -> tuple[Tensor, Tensor]:
    """Image [3, h, w] and labels [h, w] of what their pipeline returns."""
    return found["inputs"], found["data_samples"].gt_sem_seg.data[0]


def check_agreement(items: Sequence[Item], mapper: TrainMapper, pipeline: Any = their_pipeline) -> None:
    """Reads and enlarges every file both ways, nothing left to chance.

    Raises:
        RuntimeError: a pixel differs: the times would compare different things.
    """
    still = replace(mapper.augmentation, scale_range=(FACTOR, FACTOR), crop_size=(9999, 9999), max_class_share=1.0,
                    flip_prob=0.0, distort=False)  # fmt: skip
    ours = TrainMapper(still, "BGR", mapper.table)  # theirs changes the order on the device
    theirs = pipeline(still, reduce_zero=reduces_zero(mapper.table))
    for item in items:
        mine, (image, label) = ours(item, np.random.default_rng(0)), their_tensors(theirs(their_item(item, ours.table)))
        if not (torch.equal(mine["image"], image) and torch.equal(mine["sem_seg"], label)):
            raise RuntimeError(
                f"{item['file_name']}: expected the same pixels and labels, mmsegmentation reads others."
            )
