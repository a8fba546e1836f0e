"""SemanticEvaluator: Detectron2's evaluator interface over ``bpkd.metrics``."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from bpkd.errors import did_you_mean
from bpkd.files import write_json
from bpkd.metrics import METRICS, Metric, SegmentationMetrics
from bpkd.metrics.absent import absent_lines

from .identity import DataDigest, label_bytes

logger = logging.getLogger(__name__)
# Names of images that a sentence shows.
SHOWN = 5


class SemanticEvaluator(DatasetEvaluator):
    """Counts predictions of each process and adds the counts up exactly.

    Attributes:
        metrics: metrics that see every image: ``SegmentationMetrics``, then those of the argument.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        ignore_index: int = 255,
        widths: Sequence[int] = (1, 3, 5, 9, 15),
        absent: str = "zero",
        boundary_ratio: float = 0.02,
        tolerances: Sequence[int] = (3,),
        metrics: Sequence[type[Metric] | str] = (),
        output_dir: str | None = None,
        protocol: dict[str, Any] | None = None,
    ) -> None:
        """Makes the metrics.

        Args:
            class_names: names of the classes, in the order of their ids.
            ignore_index: label that takes no part.
            widths: half-widths of the trimap bands in pixels.
            absent: what a class counts that is predicted but occurs in no label, see ``SegmentationMetrics``.
            boundary_ratio: width of Boundary IoU's band as a share of the image's diagonal.
            tolerances: distances in pixels at which two contours still match, for boundary F.
            metrics: further metrics: classes, or names in ``bpkd.metrics.METRICS``.
            output_dir: folder of ``metrics.json``, the full result; None writes nothing.
            protocol: how images were tested, for the full result.

        Raises:
            ValueError: a metric is unknown or named twice.
        """
        self.class_names, self.output_dir = list(class_names), output_dir
        self.protocol = protocol or {}
        standard = SegmentationMetrics(
            len(class_names),
            ignore_index=ignore_index,
            widths=widths,
            absent=absent,
            boundary_ratio=boundary_ratio,
            tolerances=tolerances,
        )
        further = [one(len(class_names), ignore_index=ignore_index) for one in find_metrics(metrics)]
        self.metrics: list[Metric] = [standard, *further]
        self.standard = standard
        self.reset()

    def reset(self) -> None:
        """Resets all counts."""
        self.data, self.without_label = DataDigest(), list[str]()
        for metric in self.metrics:
            metric.reset()

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
                prediction, target = (
                    predicted_ids(output["sem_seg"], len(self.class_names)).cpu(),
                    item["sem_seg"].cpu(),
                )
                for metric in self.metrics:
                    metric.update(prediction, target)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            self.data.add(str(name), label_bytes(target))
            if not (target != self.standard.ignore_index).any():
                self.without_label.append(str(name))

    def evaluate(self) -> dict[str, Any] | None:
        """Adds all processes' counts and computes the figures; None on all but the main process.

        Returns:
            ``sem_seg``: the figures of all metrics; one whose name an earlier metric has is called
            ``<metric>.<figure>``. ``per_class``: IoU per class in each trimap band. ``absent``: the convention for
            classes that occur in no label, which these are, and the means that the other one changes. ``data``: what
            identifies images and labels.

        Raises:
            ValueError: no image has a labelled pixel.
        """
        states = comm.gather([metric.state_dict() for metric in self.metrics])
        facts = comm.gather((self.data.state(), self.without_label))
        if not comm.is_main_process():
            return None
        for others, (data, without) in zip(states[1:], facts[1:], strict=True):  # the first are its own
            for metric, state in zip(self.metrics, others, strict=True):
                metric.add_state(state)
            self.data.add_state(data)
            self.without_label += without
        self._check_labels()
        full: dict[str, Any] = {}
        figures: dict[str, float] = {}
        for metric in self.metrics:
            result = computed(metric)
            _add(figures, checked(metric, metric.flatten(result, self.class_names)), prefix=type(metric).__name__)
            _add(full, result, prefix=type(metric).__name__)
        full["protocol"].update(self.protocol)
        data = self.data.record(self.protocol.get("dataset", ""), self.class_names)
        self._tell(full)
        if self.output_dir:
            path = os.path.join(self.output_dir, "metrics.json")
            write_json(path, {"classes": self.class_names, **full, "data": data})
        absent = {**full["absent"], "images_without_label": full["images_without_label"]}
        return OrderedDict(sem_seg=figures, per_class=per_class(full, self.class_names), absent=absent, data=data)

    def _check_labels(self) -> None:
        images = int(self.standard.images)
        if images and not self.standard.counts.any():
            where = self.protocol.get("dataset") or "the set"
            raise ValueError(
                f"{where}: expected labelled pixels, got {images} images whose labels are all ignored "
                f"({self.standard.ignore_index}), {self.without_label[0]} among them: there is nothing to evaluate. "
                "Check the labels with bpkd check-data; values of masks are mapped by DATASETS.FOLDER.ID_MAP."
            )

    def _tell(self, result: dict[str, Any]) -> None:
        """Logs the convention for classes without a label, and what it decided here."""
        where = self.protocol.get("dataset") or "evaluation"
        for line in absent_lines(result, self.class_names, option="TEST.ABSENT_CLASS"):
            logger.info("%s: %s", where, line)
        if self.without_label:
            names = ", ".join(self.without_label[:SHOWN]) + (", ..." if self.without_label[SHOWN:] else "")
            logger.warning("%s: without a labelled pixel: %s.", where, names)


def predicted_ids(scores: Tensor, num_classes: int) -> Tensor:
    """Returns the class of the highest score [H, W].

    Args:
        scores: [K, H, W].
        num_classes: number of classes K.

    Raises:
        ValueError: there is no score for each class, or scores are nan.
    """
    if scores.ndim != 3 or len(scores) != num_classes:
        raise ValueError(f"expected scores [{num_classes}, H, W], one for each class, got {list(scores.shape)}.")
    ids = scores.argmax(0)
    if scores.is_floating_point() and scores.gather(0, ids[None]).isnan().any():  # nan counts as the highest
        raise ValueError("expected scores, got nan: the network's weights or statistics are broken.")
    return ids


def find_metrics(metrics: Sequence[type[Metric] | str]) -> list[type[Metric]]:
    """Returns classes of metrics.

    Args:
        metrics: classes, or names in ``bpkd.metrics.METRICS``.

    Raises:
        ValueError: a name is unknown, or a metric is named twice.
    """
    unknown = [name for name in metrics if isinstance(name, str) and name not in METRICS]
    if unknown:
        known = ", ".join(METRICS) or "none so far"
        raise ValueError(
            f"TEST.METRICS: expected registered metrics ({known}), got {', '.join(unknown)}. A metric is registered by "
            f"bpkd.metrics.register_metric when its module is imported.{did_you_mean(unknown[0], METRICS)}"
        )
    found = [METRICS[one] if isinstance(one, str) else one for one in metrics]
    if len(set(found)) != len(found):
        raise ValueError(f"TEST.METRICS: expected each metric once, got {', '.join(m.__name__ for m in found)}.")
    return found


def computed(metric: Metric) -> dict[str, Any]:
    """Returns what a metric computes, with plain numbers and lists for tensors and arrays.

    Raises:
        ValueError: it is no dict.
    """
    found: Any = _listed(metric.compute())
    if not isinstance(found, dict):
        raise ValueError(f"{type(metric).__name__}.compute: expected a dict of figures by name, got {found!r}.")
    return found


def checked(metric: Metric, figures: dict[str, Any]) -> dict[str, float]:
    """Returns the figures of a metric for the run's record.

    Raises:
        ValueError: one of them is no number.
    """
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"{type(metric).__name__}.compute: {name}: expected a number or a list of one number per class, got "
                f"{value!r}. Other results need the metric's own flatten()."
            )
    return figures


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value  # tensors, numpy's arrays and numbers


def _add(figures: dict[str, Any], more: dict[str, Any], *, prefix: str) -> None:
    figures.update({f"{prefix}.{k}" if k in figures else k: v for k, v in more.items()})


def per_class(result: dict[str, Any], class_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns {``trimap_w<half-width>``: {class: IoU in the band}}, the bars of the supplement's Fig. 1."""
    return {f"trimap_w{w}": dict(zip(class_names, v["IoU"], strict=True)) for w, v in result["trimap"].items()}
