"""What identifies the data that figures were measured on: number of images, classes, digests of names and labels."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from bpkd.data import dataset_task
from bpkd.tasks import INSTANCE

BITS = 64


class DataDigest:
    """Digests of a set's images: the same in every order, whatever processes saw them and wherever the files lie."""

    def __init__(self) -> None:
        """Starts with no image."""
        self.images, self.names, self.labels = 0, 0, 0

    def add(self, name: str, label: bytes) -> None:
        """Adds an image.

        Args:
            name: its file; the folder does not matter.
            label: what identifies its label.
        """
        base = PurePath(name.replace("\\", "/")).name.encode(errors="surrogateescape")
        self.images += 1
        self.names = (self.names + _number(base)) % 2**BITS
        self.labels = (self.labels + _number(base + b"\0" + label)) % 2**BITS

    def state(self) -> tuple[int, int, int]:
        """Returns the sums, plain numbers."""
        return self.images, self.names, self.labels

    def add_state(self, state: tuple[int, int, int]) -> None:
        """Adds the sums of other images."""
        self.images += state[0]
        self.names, self.labels = (self.names + state[1]) % 2**BITS, (self.labels + state[2]) % 2**BITS

    def record(self, name: str, classes: Sequence[str]) -> dict[str, Any]:
        """Returns what a run's record says of the data.

        Args:
            name: name of the data set.
            classes: names of its classes.
        """
        digests = {"names": f"{self.names:016x}", "labels": f"{self.labels:016x}"}
        return {"name": name, "images": self.images, "classes": list(classes), **digests}


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=BITS // 8).digest(), "big")


def label_bytes(label: Tensor) -> bytes:
    """Returns what identifies a label map: its size and a checksum of its ids."""
    ids = np.ascontiguousarray(label.numpy().astype(np.int32 if int(label.max()) > 255 else np.uint8))
    return f"{ids.shape} {zlib.crc32(ids.data)}".encode()


def data_identity(name: str) -> dict[str, Any]:
    """Returns the identity of a registered data set of objects, from its annotations; of label maps without the labels.

    Args:
        name: registered name.
    """
    digest = DataDigest()
    for item in DatasetCatalog.get(name):
        boxes = [(a.get("category_id"), [round(float(v), 2) for v in a.get("bbox") or ()])
                 for a in item.get("annotations") or ()]  # fmt: skip
        digest.add(str(item.get("file_name", item.get("image_id"))), repr(sorted(map(repr, boxes))).encode())
    task = dataset_task(name)
    found = digest.record(name, task.class_names(MetadataCatalog.get(name)))
    return {k: v for k, v in found.items() if k != "labels" or task is INSTANCE}
