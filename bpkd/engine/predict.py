"""A checkpoint as a function from image file to label map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray

from bpkd.convert import load_strict
from bpkd.data.augment import fitted_size, resize
from bpkd.data.catalog import spread_colors
from bpkd.data.files import read_image
from bpkd.data.mapper import as_tensor
from bpkd.modeling import build_dense, predicts_instances

from .launch import load_config

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class Predictor:
    """A network with the test protocol of its config.

    Attributes:
        name: of the run, for titles and file names.
        class_names: in the order of the ids.
        colors: RGB per class.
        label_table: mask value -> trained id of the config's data set.
    """

    def __init__(self, weights: str, config_file: str = "", opts: Sequence[str] = ()) -> None:
        """Builds the network and loads its weights.

        Args:
            weights: checkpoint of a student.
            config_file: that it was trained with; empty: ``config.yaml`` beside the weights, where a run leaves it.
            opts: KEY VALUE pairs that change the config.

        Raises:
            FileNotFoundError: there are no weights, or no config.
            ValueError: config and weights do not fit.
            TypeError: the network yields instances, not label maps.
        """
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"--weights: {weights}: no such file.")
        config = Path(config_file) if config_file else path.with_name("config.yaml")
        if not config.is_file():
            raise FileNotFoundError(f"{config}: no such file. Name the config of {weights} with --config-file.")
        self.cfg = load_config(str(config), opts)
        if predicts_instances(self.cfg):
            raise TypeError(f"{config}: expected a network for label maps, got {self.cfg.MODEL.META_ARCHITECTURE}.")
        self.name = path.resolve().parent.name
        data = (*self.cfg.DATASETS.TEST, *self.cfg.DATASETS.TRAIN)[0]
        meta = MetadataCatalog.get(data)
        self.class_names = list(meta.stuff_classes)
        self.colors = list(meta.get("stuff_colors") or spread_colors(len(self.class_names)))
        self.label_table: list[int] = meta.label_table
        self.model = build_dense(self.cfg)
        load_strict(self.model, weights)
        self.model.eval()

    def __call__(self, image: str | Path) -> NDArray[np.int64]:
        """Returns the ids [H, W] of an image file, at its own size.

        Raises:
            DatasetError: the file cannot be read as an image.
        """
        pixels = read_image({"file_name": str(image)})
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


def list_images(path: Path) -> list[Path]:
    """Returns an image file, or all of a folder and the folders below it.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else []
    if not found:
        raise FileNotFoundError(f"--images: {path}: expected an image, or a folder of {', '.join(IMAGE_SUFFIXES)}.")
    return found
