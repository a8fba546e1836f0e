"""Cityscapes' official figures, by cityscapesscripts' own functions, on any number of processes and machines."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray
from PIL import Image

from bpkd.files import replacing

SUFFIXES = ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")
AVERAGES = {
    "IoU": "averageScoreClasses",
    "iIoU": "averageScoreInstClasses",
    "IoU_sup": "averageScoreCategories",
    "iIoU_sup": "averageScoreInstCategories",
}


class CityscapesEvaluator(DatasetEvaluator):
    """Class and category IoU and iIoU as cityscapesscripts computes them.

    Each process writes its own predictions (regular ids, named as the benchmark's server takes them) and lets
    cityscapesscripts count each; what is gathered is the confusion matrix and the instances' sums. So machines need no
    common folder, which Detectron2's evaluator does.
    """

    def __init__(self, output_dir: str | None = None) -> None:
        """Takes the folder that predictions go to; None keeps none.

        Raises:
            ImportError: cityscapesscripts is not installed.
        """
        self.official, self.output_dir = official_scripts(), output_dir
        ids = {label.trainId: label.id for label in self.official.labels if 0 <= label.trainId < 255}
        self.ids = np.array([ids[i] for i in range(len(ids))], np.uint8)
        self.reset()

    def reset(self) -> None:
        """Resets all counts."""
        self.matrix = self.official.generateMatrix(self.official.args)
        self.instances = self.official.generateInstanceStats(self.official.args)
        self.with_instances = True

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Counts images.

        Args:
            inputs: dataset dicts with ``sem_seg_file_name``, a Cityscapes label file.
            outputs: dicts with scores ``sem_seg`` [19, H, W] at original size.

        Raises:
            ValueError: a label file is missing, has another name or another size; the message names it.
        """
        for item, output in zip(inputs, outputs, strict=True):
            labels = label_ids_file(item)
            pred = self.ids[output["sem_seg"].argmax(0).cpu().numpy()]
            with Image.open(labels) as picture:
                if picture.size != pred.shape[::-1]:
                    raise ValueError(f"{labels}: {picture.size} (width, height), but the prediction has "
                                     f"{pred.shape[::-1]}.")  # fmt: skip
            self._count(pred, labels)

    def _count(self, pred: NDArray[np.uint8], labels: Path) -> None:
        # The instances' file comes with the download; without it no process has iIoU.
        self.with_instances &= labels.with_name(labels.name.replace("labelIds", "instanceIds")).is_file()
        self.official.args.evalInstLevelScore = self.with_instances
        name = labels.name.replace("_gtFine_labelIds", "_pred")
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.output_dir or scratch
            path = os.path.join(folder, name)
            with replacing(path) as part:
                Image.fromarray(pred).save(part)
            try:
                self.official.evaluatePair(path, str(labels), self.matrix, self.instances, {}, self.official.args)
            except SystemExit as stop:  # its way to say that an id is unknown
                raise ValueError(
                    f"{labels}: cityscapesscripts refuses it (its message stands above): expected labelIds 0..33."
                ) from stop

    def evaluate(self) -> dict[str, Any] | None:
        """Sums all processes' counts and computes the figures, in percent; None on all but the main process.

        Returns:
            ``cityscapes``: ``IoU``, ``iIoU``, ``IoU_sup``, ``iIoU_sup`` (Detectron2's names: averages over classes,
            then over categories) and IoU per class and category. iIoU is left out without instance files.
        """
        gathered = comm.gather((self.matrix, self.instances, self.with_instances))
        if not comm.is_main_process():
            return None
        matrix, stats = self.official.generateMatrix(self.official.args), self.official.generateInstanceStats(None)
        for part, instances, _ in gathered:
            matrix += part
            _add(stats, instances)
        return OrderedDict(cityscapes=self._figures(matrix, stats, all(g[2] for g in gathered)))

    def _figures(self, matrix: NDArray[Any], stats: dict[str, Any], with_instances: bool) -> dict[str, float]:
        scripts, args = self.official, self.official.args
        names = {scripts.id2label[i].name: i for i in args.evalLabels}
        groups = list(scripts.category2labels)
        scores = {
            "classScores": {n: scripts.getIouScoreForLabel(i, matrix, args) for n, i in names.items()},
            "classInstScores": {n: scripts.getInstanceIouScoreForLabel(i, matrix, stats, args)
                                for n, i in names.items()},
            "categoryScores": {g: scripts.getIouScoreForCategory(g, matrix, args) for g in groups},
            "categoryInstScores": {g: scripts.getInstanceIouScoreForCategory(g, matrix, stats, args) for g in groups},
        }  # fmt: skip
        whole = scripts.createResultDict(matrix, *scores.values(), {}, args)
        shown = {k: v for k, v in AVERAGES.items() if with_instances or not k.startswith("iIoU")}
        result = {key: 100 * whole[name] for key, name in shown.items()}
        trained = [scripts.id2label[int(i)].name for i in self.ids]
        result.update({f"IoU-{n}": 100 * whole["classScores"][n] for n in trained})
        result.update({f"IoU_sup-{g}": 100 * v for g, v in whole["categoryScores"].items() if v == v})
        return result


def official_scripts() -> Any:
    """Returns cityscapesscripts' pixel-level evaluation, a module, able to run on any numpy.

    Raises:
        ImportError: cityscapesscripts is not installed.
    """
    try:
        import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
    except ImportError as error:
        raise ImportError("Cityscapes' official evaluation: pip install cityscapesscripts.") from error
    if not hasattr(official.np, "in1d"):  # numpy 2.5 dropped it, cityscapesscripts 2.3.0 calls it
        official.np = SimpleNamespace(**vars(np), in1d=in1d)  # that module's own name, not numpy itself
    return official


def in1d(values: Any, wanted: Any, invert: bool = False) -> NDArray[np.bool_]:
    """Returns what numpy's function of this name returned: [values.size], whether each value is one of ``wanted``."""
    return np.isin(np.ravel(values), wanted, invert=invert)


def label_ids_file(item: dict[str, Any]) -> Path:
    """Returns the path of an item's ``*_gtFine_labelIds.png``, which the official evaluation reads.

    Raises:
        ValueError: the item's label file is not named as Cityscapes' are, or the file does not exist.
    """
    given = str(item.get("sem_seg_file_name", ""))
    suffix = next((s for s in SUFFIXES if given.endswith(s)), None)
    if suffix is None:
        raise ValueError(
            f"{item.get('file_name', 'an image')}: expected 'sem_seg_file_name' to end in one of {SUFFIXES}, got "
            f"{given!r}."
        )
    path = Path(given.removesuffix(suffix) + "_gtFine_labelIds.png")
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file. Cityscapes' official evaluation needs the labelIds of gtFine's download."
        )
    return path


def _add(total: dict[str, Any], part: dict[str, Any]) -> None:
    """Adds the instances' sums (``tp``, ``fn`` and their weighted forms) of another process."""
    for kind, groups in part.items():
        for name, sums in groups.items():
            for key, value in sums.items():
                if isinstance(value, float | int):
                    total[kind][name][key] += value
