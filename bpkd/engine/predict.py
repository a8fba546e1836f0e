"""Predicts the classes or instances of an image file with a checkpoint."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray

from bpkd.config import image_range
from bpkd.convert import load_strict
from bpkd.data.augment import fitted_size, resize
from bpkd.data.catalog import spread_colors
from bpkd.data.files import named, open_picture
from bpkd.data.instances import InstanceEvalMapper, instances_at
from bpkd.data.mapper import as_tensor
from bpkd.data.notes import depth_of
from bpkd.listing import IMAGE_FORMATS, check_name, ending, kinds, walk
from bpkd.modeling import build_dense, build_solov2, task_of
from bpkd.tasks import INSTANCE, SEMANTIC, Task

from .configure import load_config

logger = logging.getLogger(__name__)

Size = tuple[int, int]


def predictor(weights: str, config_file: str = "", opts: Sequence[str] = ()) -> Predictor | InstancePredictor:
    """Builds a network and loads its weights.

    Args:
        weights: checkpoint of a student.
        config_file: Config that it was trained with; empty: the ``config.yaml`` beside the weights, which a run writes.
        opts: KEY VALUE pairs that change the config.

    Raises:
        FileNotFoundError: there are no weights, or no config.
        ValueError: config and weights do not fit.
    """
    cfg = _config(weights, config_file, opts)
    kind = PREDICTORS[task_of(cfg)]
    return kind(weights, config_file, opts)


def _config(weights: str, config_file: str, opts: Sequence[str]) -> CfgNode:
    path = Path(weights)
    if not path.exists():
        raise FileNotFoundError(f"--weights: {weights}: no such file.")
    config = Path(config_file) if config_file else path.with_name("config.yaml")
    if not config.is_file():
        raise FileNotFoundError(f"{config}: no such file. Name the config of {weights} with --config-file.")
    return load_config(str(config), opts)


class Predictor:
    """A network with the test protocol of its config.

    Attributes:
        task: Task of the network.
        name: Name of the run, for titles and file names.
        class_names: Names of the classes in the order of the ids.
        colors: RGB per class.
        label_table: mask value -> trained id of the config's data set.
    """

    task = SEMANTIC

    def __init__(self, weights: str, config_file: str = "", opts: Sequence[str] = ()) -> None:
        """Builds the network and loads its weights; arguments and errors as ``predictor``.

        Raises:
            TypeError: the network is not one for semantic segmentation.
        """
        self.cfg = _config(weights, config_file, opts)
        self.model = build_dense(self.cfg)
        self.name = Path(weights).resolve().parent.name
        data = (*self.cfg.DATASETS.TEST, *self.cfg.DATASETS.TRAIN)[0]
        meta = MetadataCatalog.get(data)
        self.class_names = list(meta.stuff_classes)
        self.colors = list(meta.get("stuff_colors") or spread_colors(len(self.class_names)))
        self.label_table: list[int] = meta.label_table
        statements = self.cfg.MODEL.FILE_STATEMENTS
        load_strict(self.model, weights, source="--weights", classes=self.class_names, statements=statements)
        self.model.eval()

    def read(self, image: str | Path) -> NDArray[np.uint8]:
        """Returns an image file BGR [H, W, 3], turned by its EXIF orientation, in INPUT.IMAGE_RANGE.

        Raises:
            DatasetError: the file cannot be read as an image.
        """
        return _read(self.cfg, image)

    def __call__(self, image: str | Path) -> NDArray[np.int64]:
        """Returns the ids [H, W] of an image file, at its own size.

        Raises:
            DatasetError: the file cannot be read as an image.
        """
        pixels = self.read(image)
        height, width = pixels.shape[:2]
        item: dict[str, Any] = {"file_name": str(image), "height": height, "width": width}
        box = (self.cfg.INPUT.TEST_BOX[0], self.cfg.INPUT.TEST_BOX[1])
        if any(box):
            pixels, _ = resize(pixels, None, fitted_size(height, width, box))
        fmt = self.cfg.INPUT.FORMAT
        with torch.inference_mode():
            (output,) = self.model([{**item, "image": as_tensor(pixels, fmt), "image_format": fmt}])
            ids: NDArray[np.int64] = output["sem_seg"].argmax(0).cpu().numpy()
        return ids


class InstancePredictor:
    """A network for instances with the test protocol of its config.

    Attributes:
        task: Task of the network.
        name: Name of the run, for titles and file names.
    """

    task = INSTANCE

    def __init__(self, weights: str, config_file: str = "", opts: Sequence[str] = ()) -> None:
        """Builds the network and loads its weights; arguments and errors as ``predictor``.

        Raises:
            TypeError: the network is not one for instances.
        """
        self.cfg = _config(weights, config_file, opts)
        self.name = Path(weights).resolve().parent.name
        self.model = build_solov2(self.cfg)
        load_strict(self.model, weights, source="--weights", statements=self.cfg.MODEL.FILE_STATEMENTS)
        self.model.eval()

    def read(self, image: str | Path) -> NDArray[np.uint8]:
        """Returns an image file BGR [H, W, 3], turned by its EXIF orientation, in INPUT.IMAGE_RANGE.

        Raises:
            DatasetError: the file cannot be read as an image.
        """
        return _read(self.cfg, image)

    def __call__(self, image: str | Path, score: float) -> NDArray[np.bool_]:
        """Returns the masks [n, H, W] of an image file, at its own size, with at least this score, in falling order.

        Raises:
            DatasetError: the file cannot be read as an image.
        """
        with torch.inference_mode():
            (output,) = self.model([self._item(image)])
        found = output["instances"]
        masks: NDArray[np.bool_] = found.pred_masks[found.scores >= score].cpu().numpy()
        return masks

    def levels(self, item: dict[str, Any]) -> tuple[NDArray[np.uint8], list[tuple[str, NDArray[np.bool_], Size]], Size]:
        """Returns the labelled instances that are assigned to each level, at the test size.

        Args:
            item: dataset dict with ``file_name``, ``height``, ``width`` and ``annotations``.

        Returns:
            The image RGB [h, w, 3]; (title, masks [n, h, w], (S, S)) per level; and the padded size.
        """
        seen, node = self._item(item["file_name"]), self.cfg.INPUT
        instances = instances_at(item, node.MIN_SIZE_TEST, node.MAX_SIZE_TEST)
        shape = self.model.preprocess([seen]).tensor.shape
        canvas = (int(shape[-2]), int(shape[-1]))
        found = self.model.assign([instances], canvas)
        masks: NDArray[np.bool_] = found.full_masks[0].cpu().numpy()
        levels = []
        for level, grid in zip(found.levels, self.model.assigner.num_grids, strict=True):
            own = masks[level.instance.unique().cpu().numpy()]
            levels.append((f"{grid} x {grid}: {len(own)} instances", own, (grid, grid)))
        pixels = seen["image"].numpy().transpose(1, 2, 0)
        rgb = pixels if node.FORMAT == "RGB" else pixels[..., ::-1]
        return np.ascontiguousarray(rgb), levels, canvas

    def _item(self, image: str | Path) -> dict[str, Any]:
        item = {"file_name": str(image)}
        return InstanceEvalMapper.from_config(self.cfg)(item)


PREDICTORS: dict[Task, type[Predictor] | type[InstancePredictor]] = {SEMANTIC: Predictor, INSTANCE: InstancePredictor}


def _read(cfg: CfgNode, image: str | Path) -> NDArray[np.uint8]:
    span, picture = image_range(cfg), open_picture({"file_name": str(image)})
    depth = None if any(span) else depth_of(picture)
    if depth and (depth.dark or depth.flat):
        warnings.warn(
            f"{image}: 16 bits, the largest value is {depth.largest}, nearly all lie from {depth.low} to {depth.high}: "
            f"almost {'black' if depth.dark else 'one grey'} as 0..65535. Say which values become black and white: "
            "INPUT.IMAGE_RANGE [low, high], as in training.",
            stacklevel=3,
        )
    with named(str(image)):
        return picture.as_bytes(span)


def list_images(path: Path, *, without: Sequence[Path] = ()) -> dict[str, Path]:
    """Returns an image file, or all of a folder and the folders below it, by path inside the folder.

    What is there beside images is named in the log.

    Args:
        path: image or folder.
        without: folders below it that are left out, such as that of the outputs.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_file():
        check_name(path)
        return {path.name: path}
    files = walk(path, without=without).files if path.is_dir() else []
    found = {p.relative_to(path).as_posix(): p for p in files if ending(p.name, IMAGE_FORMATS)}
    rest = [p for p in files if not ending(p.name, IMAGE_FORMATS)]
    if not found:
        got = f" It holds {kinds(rest)}." if rest else ""
        raise FileNotFoundError(
            f"--images: {path}: expected an image, or a folder of {', '.join(IMAGE_FORMATS)}, got none.{got}"
        )
    if rest:
        logger.warning("%s: %d files are no listed images: %s.", path, len(rest), kinds(rest))
    return found
