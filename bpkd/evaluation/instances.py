"""InstanceEvaluator: COCO's mask AP, and Boundary AP, of instances without boxes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bpkd.data.annotations import Objects, read_objects
from bpkd.metrics.boundary import boundary_width, mask_boundary

from .coco_labels import Labels, what_counts

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "pycocotools", "faster-coco-eval")
# Of COCO's summary: where a figure stands in its table of precisions, as (overlaps, sizes).
FIGURES = {
    "AP": (slice(None), 0),
    "AP50": (slice(0, 1), 0),
    "AP75": (slice(5, 6), 0),
    "APs": (slice(None), 1),
    "APm": (slice(None), 2),
    "APl": (slice(None), 3),
}


class BoundaryCOCOeval(COCOeval):
    """COCO's evaluation with the lesser of mask IoU and Boundary IoU as the overlap of two masks.

    Source:
        Cheng et al., "Boundary IoU", CVPR 2021, section 5: Boundary AP. The minimum, since Boundary IoU alone takes a
        mask for the ring along its outline; crowds are compared as COCO compares them (over the detection's area).
    """

    def __init__(self, truth: COCO, found: COCO, ratio: float) -> None:
        """Takes labels, results and the boundary's width as a share of the image's diagonal."""
        super().__init__(truth, found, "segm")
        self.ratio = ratio

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803 - COCOeval's names
        """Returns the overlaps [detections, labels] of one image and class, detections by falling score."""
        overlap = super().computeIoU(imgId, catId)
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truth or not found:
            return overlap
        order = np.argsort([-d["score"] for d in found], kind="mergesort")[: self.params.maxDets[-1]]
        own = [found[i]["boundary"] for i in order]
        theirs = [boundary_rle(a["segmentation"], self.ratio) for a in truth]
        return np.minimum(overlap, rle.iou(own, theirs, [int(a["iscrowd"]) for a in truth]))


def boundary_rle(encoded: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    """Returns the boundary of a run-length encoded mask, encoded."""
    height, width = encoded["size"]
    left, top, wide, high = (int(v) for v in rle.toBbox(encoded))
    mask = rle.decode(encoded)
    if not mask.any():
        return dict(encoded)
    inside = slice(top, top + high), slice(left, left + wide)
    # Outside its box there is nothing of a mask, and the box's border is outline as the image's is.
    part = torch.from_numpy(np.ascontiguousarray(mask[inside])).bool()
    mask[inside] = mask_boundary(part, boundary_width(height, width, ratio)).numpy()
    encoded_ring: dict[str, Any] = rle.encode(np.asfortranarray(mask))
    return encoded_ring


class InstanceEvaluator(DatasetEvaluator):
    """AP and Boundary AP in percent: overall, at 50 and 75 % overlap, by size, per class.

    Predictions are Detectron2's ``Instances`` with ``pred_masks`` bool [N, H, W] at the original size, ``scores`` and
    ``pred_classes``; boxes are not needed. Each process encodes its own, the main process evaluates all. Only images
    that were processed are evaluated.
    """

    def __init__(
        self,
        *,
        json_file: str,
        class_names: Sequence[str],
        dataset_ids: Mapping[int, int] | None = None,
        boundary_ratio: float = 0.02,
        backend: str = "auto",
        max_detections: int = 100,
        output_dir: str | None = None,
        objects: Objects | None = None,
    ) -> None:
        """Takes labels and classes.

        Args:
            json_file: labels in COCO's format.
            class_names: names of the classes, in the order of ``pred_classes``.
            dataset_ids: {class in ``pred_classes``: category id in the file}; None: the file's ids in rising order.
            boundary_ratio: width of Boundary AP's boundary as a share of the image's diagonal.
            backend: library that computes mask AP: "pycocotools", "faster-coco-eval", or "auto": the latter where it
                is installed. Boundary AP is always computed by pycocotools.
            max_detections: detections of an image that count, of each class the highest-scoring ones. COCO's figures
                are those at 100; images with more objects than that cannot reach full recall.
            output_dir: folder of ``coco_instances_results.json``; None writes nothing.
            objects: the file's objects, where they have been read already.

        Raises:
            ValueError: the backend is unknown, no detection may count, the file has other categories, or objects that
                cannot be used.
            ImportError: the backend is not installed.
        """
        if max_detections < 1:
            raise ValueError(f"max_detections: expected at least 1, got {max_detections}.")
        self.backend, self.max_detections = pick_backend(backend), max_detections
        self.class_names, self.boundary_ratio, self.output_dir = list(class_names), boundary_ratio, output_dir
        self.json_file = json_file
        if objects is None:
            objects = read_objects(Path(json_file))
            for note in objects.notes:
                logger.warning("%s", note)
        self.labels = Labels(objects)
        with contextlib.redirect_stdout(io.StringIO()):
            self.truth = self.labels.load(COCO)
        if empty := self.labels.empty:
            what = "count as missed, as in COCO's own figures" if objects.published else "are left out"
            names = ", ".join(repr(v) for v in empty[:5]) + (", ..." if empty[5:] else "")
            logger.warning("%s: %d objects cover no pixel and %s (ids %s).", json_file, len(empty), what, names)
        known = sorted(self.truth.getCatIds())
        ids = dict(dataset_ids) if dataset_ids is not None else dict(enumerate(known))
        if set(ids) != set(range(len(class_names))) or not set(ids.values()) <= set(known):
            raise ValueError(
                f"{json_file}: expected a category for each of {len(class_names)} classes, got ids {ids} for "
                f"the file's {len(known)} categories. Give dataset_ids {{class: category id}} of this file."
            )
        self.ids = ids
        self.reset()

    def reset(self) -> None:
        """Resets all counts."""
        self.results: list[dict[str, Any]] = []
        self.images: list[int] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Encodes the instances of images.

        Args:
            inputs: dataset dicts with ``image_id``.
            outputs: dicts with ``instances``.

        Raises:
            ValueError: an image is not in the labels' file, or its masks have another size.
        """
        for item, output in zip(inputs, outputs, strict=True):
            image_id, found = item["image_id"], output["instances"].to("cpu")
            if image_id not in self.labels.number:
                name = item.get("file_name", image_id)
                raise ValueError(f"{name}: image_id {image_id!r} is not in {self.json_file}.")
            info = self.truth.imgs[self.labels.number[image_id]]
            masks = np.asarray(found.pred_masks, dtype=np.uint8)
            if masks.shape[1:] != (info["height"], info["width"]):
                raise ValueError(
                    f"{item.get('file_name', image_id)}: expected masks of the original size "
                    f"{info['height']} x {info['width']}, got {masks.shape[1]} x {masks.shape[2]}."
                )
            self.images.append(image_id)
            rows = zip(masks, found.scores.tolist(), found.pred_classes.tolist(), strict=True)
            for mask, score, c in rows:
                encoded = rle.encode(np.asfortranarray(mask))
                row = {"image_id": image_id, "category_id": self.ids[c], "score": score, "segmentation": encoded}
                # Made here, where the work is shared by all processes.
                self.results.append({**row, "boundary": boundary_rle(encoded, self.boundary_ratio)})

    def evaluate(self) -> dict[str, Any] | None:
        """Gathers all processes' instances and computes the figures; None on all but the main process.

        Returns:
            ``segm``, ``boundary`` and ``bbox`` (boxes around the masks): the figures of FIGURES and ``AP-<class>``;
            nan where no label counts.
        """
        gathered = comm.gather((self.images, self.results))
        if not comm.is_main_process():
            return None
        number = self.labels.number
        images = sorted({number[i] for part, _ in gathered for i in part})
        # By image, so that the order of equal scores does not depend on who counted which image.
        results = sorted((r for _, part in gathered for r in part), key=lambda r: number[r["image_id"]])
        if len(images) < len(self.truth.imgs):
            logger.info("%d of the %d images of %s are evaluated.", len(images), len(self.truth.imgs), self.json_file)
        if self.output_dir:
            os.makedirs(self.output_dir, exist_ok=True)
            with open(os.path.join(self.output_dir, "coco_instances_results.json"), "w") as f:
                json.dump([_plain(r) for r in results], f)
        if self.max_detections != 100:
            logger.info("%d detections of an image count; COCO's own figures count 100.", self.max_detections)
        found = [{**r, "image_id": number[r["image_id"]]} for r in results]
        names = ("segm", "boundary", "bbox")
        figures = OrderedDict((name, self._figures(name, images, found)) for name in names)
        classes = {self.ids[i]: name for i, name in enumerate(self.class_names)}
        for line in what_counts(self.labels, images, classes, results, figures["segm"]["AP"]):
            logger.warning("%s: %s", self.json_file, line)
        return figures

    def _figures(self, name: str, images: list[int], results: list[dict[str, Any]]) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._coco_evaluation(name, results)
            evaluation.params.imgIds = images
            evaluation.params.catIds = [self.ids[i] for i in range(len(self.ids))]
            evaluation.params.maxDets = [self.max_detections]
            evaluation.evaluate()
            evaluation.accumulate()
        # [overlap, recall, category, size, detections]. Not COCO's own summary, which is fixed to 100 detections.
        precision = evaluation.eval["precision"][..., 0]
        figures = {key: _mean(precision[overlaps, :, :, size]) for key, (overlaps, size) in FIGURES.items()}
        order = {category: i for i, category in enumerate(evaluation.params.catIds)}
        for i, class_name in enumerate(self.class_names):
            figures[f"AP-{class_name}"] = _mean(precision[:, :, order[self.ids[i]], 0])
        return figures

    def _coco_evaluation(self, name: str, results: list[dict[str, Any]]) -> Any:
        if name != "boundary" and self.backend == "faster-coco-eval":
            import faster_coco_eval

            truth = self.labels.load(faster_coco_eval.COCO)
            return faster_coco_eval.COCOeval_faster(truth, loaded(truth, results), name, print_function=logger.debug)
        if name != "boundary":
            return COCOeval(self.truth, loaded(self.truth, results), name)
        return BoundaryCOCOeval(self.truth, loaded(self.truth, results), self.boundary_ratio)


def loaded(truth: Any, results: Sequence[Mapping[str, Any]]) -> Any:
    """Returns results as COCO's data set; of no results too, which COCO's own loader does not take."""
    if results:
        return truth.loadRes([dict(r) for r in results])  # it adds to its argument
    empty = type(truth)()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def pick_backend(backend: str) -> str:
    """Returns "pycocotools" or "faster-coco-eval".

    Raises:
        ValueError: the name is unknown.
        ImportError: the backend is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {backend!r}.")
    if backend == "pycocotools":
        return backend
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError as error:
        if backend == "auto":
            return "pycocotools"
        raise ImportError("backend faster-coco-eval: pip install faster-coco-eval, or take pycocotools.") from error
    return "faster-coco-eval"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a result as COCO's files have it: no boundary, counts as text."""
    mask = row["segmentation"]
    encoded = {"size": [int(v) for v in mask["size"]], "counts": mask["counts"].decode("ascii")}
    return {**{k: row[k] for k in ("image_id", "category_id", "score")}, "segmentation": encoded}


def _mean(precision: Any) -> float:
    known = precision[precision > -1]  # -1: no label counts
    return 100 * float(known.mean()) if known.size else float("nan")
