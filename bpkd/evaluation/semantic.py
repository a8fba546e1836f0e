"""SemanticEvaluator: Detectron2's evaluator interface over ``bpkd.metrics``."""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from bpkd.metrics import SegmentationMetrics


class SemanticEvaluator(DatasetEvaluator):
    """Counts predictions of each process and adds the counts up exactly."""

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        ignore_index: int = 255,
        widths: Sequence[int] = (1, 3, 5, 9, 15),
        absent: str = "zero",
        boundary_ratio: float = 0.02,
        tolerances: Sequence[int] = (3,),
        output_dir: str | None = None,
        protocol: dict[str, Any] | None = None,
    ) -> None:
        """Takes the classes, the protocol of ``SegmentationMetrics`` and where to write the full result."""
        self.class_names, self.output_dir = list(class_names), output_dir
        self.protocol = protocol or {}
        self.metrics = SegmentationMetrics(
            len(class_names),
            ignore_index=ignore_index,
            widths=widths,
            absent=absent,
            boundary_ratio=boundary_ratio,
            tolerances=tolerances,
        )

    def reset(self) -> None:
        """Forgets every image."""
        self.metrics.reset()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Counts images.

        Args:
            inputs: dataset dicts with the label map ``sem_seg`` [H, W] at original size.
            outputs: dicts with scores ``sem_seg`` [K, H, W].

        Raises:
            ValueError: an image without a label map, or one whose label does not fit; the message names its file.
        """
        for item, output in zip(inputs, outputs, strict=True):
            name = item.get("file_name", "an image")
            if "sem_seg" not in item:
                raise ValueError(
                    f"{name}: expected a label map under 'sem_seg', got keys {sorted(item)}. Read the test set with "
                    "bpkd.data.build_test_loader, or return the label from your own mapper."
                )
            try:
                self.metrics.update(output["sem_seg"].argmax(0).cpu(), item["sem_seg"].cpu())
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def evaluate(self) -> dict[str, Any] | None:
        """Adds all processes' counts and computes the figures; None on all but the main process."""
        states = comm.gather(self.metrics.state_dict())
        if not comm.is_main_process():
            return None
        for state in states[1:]:  # the first is its own
            self.metrics.add_state(state)
        result = self.metrics.compute()
        result["protocol"].update(self.protocol)
        if self.output_dir:
            self._write(result)
        return OrderedDict(sem_seg=flatten(result, self.class_names), per_class=per_class(result, self.class_names))

    def _write(self, result: dict[str, Any]) -> None:
        assert self.output_dir is not None
        os.makedirs(self.output_dir, exist_ok=True)
        with open(os.path.join(self.output_dir, "metrics.json"), "w") as f:
            json.dump(plain({"classes": self.class_names, **result}), f, indent=1, allow_nan=False)


def plain(value: Any) -> Any:
    """Returns the same with None for nan, in dicts and lists too: JSON does not know nan."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def flatten(result: dict[str, Any], class_names: Sequence[str]) -> dict[str, float]:
    """Returns the figures as one flat dict of numbers, as Detectron2's writers take them."""
    flat = {k: result[k] for k in ("mIoU", "mAcc", "aAcc", "boundary_IoU")}
    for region in ("trimap", "body"):
        flat.update({f"{region}_w{w}": v["mIoU"] for w, v in result[region].items()})
    flat.update({f"boundary_F_t{t}": v["mF"] for t, v in result["boundary_F"].items()})
    flat.update({f"IoU-{n}": v for n, v in zip(class_names, result["IoU"], strict=True)})
    return flat


def per_class(result: dict[str, Any], class_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns {``trimap_w<half-width>``: {class: IoU in the band}}, the bars of the supplement's Fig. 1."""
    return {f"trimap_w{w}": dict(zip(class_names, v["IoU"], strict=True)) for w, v in result["trimap"].items()}
