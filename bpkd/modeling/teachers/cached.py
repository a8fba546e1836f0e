"""A teacher's logits on disk: recorded once for all training samples, then read in place of a forward pass."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode
from numpy.typing import NDArray
from torch import Tensor

from bpkd.config import rename_flat, teacher_nodes, teacher_shares
from bpkd.convert import weight_files
from bpkd.files import sha256_of, write_text
from bpkd.modeling.preprocessing import file_names
from bpkd.structures import SegOutput
from bpkd.transfer import send

from .base import Batch, Pending, Size, Taps, Teacher
from .config import load_teacher_cfg

FORMATS = ("bf16", "uint8")
LOGITS, INDEX = "logits.bin", "index.json"
# Config keys that the pixels of a sample depend on; the samples' checksums cover everything else.
STREAM = (
    "SEED", "DATASETS.TRAIN", "INPUT.FORMAT", "INPUT.RESIZE_BOX", "INPUT.SCALE_RANGE", "INPUT.CROP_SIZE",
    "INPUT.CROP_MAX_CLASS_SHARE", "INPUT.FLIP_PROB", "INPUT.PHOTOMETRIC",
)  # fmt: skip
CHECKSUM = 4  # bytes
ADVICE = "Record it with this config (bpkd cache-teacher), or leave TEACHER.CACHE empty."


def encode(logits: Tensor, kind: str) -> NDArray[np.uint8]:
    """Returns float32 logits [N, K, h, w] as N rows of bytes.

    "bf16": a relative error of at most 2^-8, none if the teacher computed in bf16. "uint8": 256 levels between the
    smallest and the largest logit of each image and class; an error of at most 1/510 of that range.

    Raises:
        ValueError: a logit is not finite.
    """
    if not logits.isfinite().all():
        raise ValueError("Teacher: expected finite logits to record, got NaN or infinity. Try TEACHER.AMP bf16 or off.")
    logits = logits.cpu()
    if kind == "bf16":
        return logits.bfloat16().contiguous().view(torch.uint8).flatten(1).numpy()
    low, high = logits.amin((2, 3), keepdim=True), logits.amax((2, 3), keepdim=True)
    step = (high - low) / 255
    levels = ((logits - low) / step.where(step > 0, 1.0)).round().clamp_(0, 255).to(torch.uint8)
    scale = torch.cat([low, step], 1).flatten(1).contiguous()
    return torch.cat([scale.view(torch.uint8), levels.flatten(1)], 1).numpy()


def decode(rows: NDArray[np.uint8], kind: str, shape: Sequence[int]) -> Tensor:
    """Returns the logits that `encode` stored, up to its rounding; ``shape`` is (K, h, w)."""
    count, (classes, height, width) = len(rows), shape
    if kind == "bf16":
        return torch.from_numpy(rows).view(torch.bfloat16).reshape(count, classes, height, width).float()
    head = 2 * classes * 4
    scale = torch.from_numpy(rows[:, :head].copy()).view(torch.float32).reshape(count, 2 * classes, 1, 1)
    levels = torch.from_numpy(rows[:, head:]).reshape(count, classes, height, width)
    return torch.addcmul(scale[:, :classes], levels.float(), scale[:, classes:])


def checksum(item: Mapping[str, Any]) -> int:
    """Returns the CRC-32 of an item's image and labels."""
    label = item["sem_seg"].to(torch.uint8).contiguous().numpy()
    return zlib.crc32(label, zlib.crc32(item["image"].contiguous().numpy()))


def rows_of(batch: Sequence[Mapping[str, Any]], logits: Tensor, kind: str) -> NDArray[np.uint8]:
    """Returns the stored bytes of a batch, one row per sample: its checksum, then its logits."""
    sums = np.array([checksum(item) for item in batch], np.uint32)[:, None].view(np.uint8)
    return np.concatenate([sums, encode(logits, kind)], 1)


class CacheFolder:
    """The folder of a cache: one row per sample of the training stream, and an index that describes them."""

    def __init__(self, path: str | Path) -> None:
        """Takes the path of the folder, which need not exist."""
        self.path = Path(path)
        self.index: dict[str, Any] = {}

    def read(self, of: Mapping[str, Any]) -> CacheFolder:
        """Reads the index and checks that it was recorded for a config.

        Args:
            of: Settings that the cache must have been recorded for, from `recorded_for`.

        Raises:
            FileNotFoundError: there is no cache.
            ValueError: the cache is damaged, or was recorded for other settings; the message names the keys.
        """
        if not (self.path / INDEX).is_file():
            raise FileNotFoundError(
                f"TEACHER.CACHE: expected a recorded folder, found no {self.path / INDEX}. {ADVICE}"
            )
        try:
            self.index = json.loads((self.path / INDEX).read_text())
            there, count, bytes_there = (
                rename_flat(self.index["of"]),
                self.index["count"],
                (self.path / LOGITS).stat().st_size,
            )
            whole = self.index["format"] in FORMATS and bytes_there >= count * self.row_bytes
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(f"TEACHER.CACHE {self.path}: it cannot be read ({error}). {ADVICE}") from error
        if not whole:
            raise ValueError(f"TEACHER.CACHE {self.path}: {LOGITS} is shorter than {INDEX} says. {ADVICE}")
        keys = sorted({*of, *there})
        changed = [f"{k}: {there.get(k)!r} there, {of.get(k)!r} here" for k in keys if there.get(k) != of.get(k)]
        if changed:
            raise ValueError(f"TEACHER.CACHE {self.path}: it was recorded for others ({'; '.join(changed)}). {ADVICE}")
        return self

    @property
    def row_bytes(self) -> int:
        """Number of bytes of one sample."""
        classes, height, width = self.index["shape"]
        values = classes * height * width
        return CHECKSUM + (2 * values if self.index["format"] == "bf16" else values + 8 * classes)

    def write(self, index: Mapping[str, Any]) -> None:
        """Writes the index, whole or not at all."""
        self.index = dict(index)
        write_text(self.path / INDEX, json.dumps(self.index, indent=1) + "\n")

    def rows(self) -> NDArray[np.uint8]:
        """Returns the samples as a memory-mapped array [count, row_bytes]."""
        shape = (self.index["count"], self.row_bytes)
        return np.memmap(self.path / LOGITS, np.uint8, "r", shape=shape)


def recorded_precision(path: str | Path) -> dict[str, str]:
    """Returns the autocast types of a cache's teachers by key ("TEACHER.AMP"); empty if the index cannot be read."""
    try:
        of = json.loads((Path(path) / INDEX).read_text())["of"]
        return {key: value for key, value in of.items() if key.endswith(".AMP")}
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return {}  # CachedTeacher raises the error


class CachedTeacher(Teacher[SegOutput]):
    """Teacher that reads recorded scores from a folder instead of running a network.

    A checksum of each sample's image and labels is compared with the recorded one.
    """

    features_unavailable_reason = "a recorded teacher (TEACHER.CACHE) has logits alone"
    amp = "recorded"

    def __init__(self, path: str | Path, *, of: Mapping[str, Any], samples: int) -> None:
        """Opens a cache.

        Args:
            path: Path of the cache's folder.
            of: Settings that the cache must have been recorded for, from `recorded_for`.
            samples: Number of samples that the training reads.

        Raises:
            FileNotFoundError: there is no cache.
            ValueError: the cache is damaged, was recorded for other settings, or has too few samples.
        """
        self.folder = CacheFolder(path).read(of)
        count = self.folder.index["count"]
        if count < samples:
            raise ValueError(
                f"TEACHER.CACHE {path}: expected {samples} samples (SOLVER.MAX_ITER x ACCUMULATE x IMS_PER_BATCH), got "
                f"{count}. Record more (bpkd cache-teacher), or let them come again: DATALOADER.REPEAT {count}."
            )
        self._rows = self.folder.rows()

    def logits_sizes(self, crop: Size, device: torch.device, *, count: int) -> set[Size]:
        """Returns the (h, w) of the recorded logits; the arguments are those of `Teacher.logits_sizes`."""
        _, height, width = self.folder.index["shape"]
        return {(height, width)}

    def submit(self, batch: Batch, size: Size, device: torch.device, *, taps: Taps = None) -> Pending[SegOutput]:
        """Reads the scores at once; the arguments are those of `Teacher.submit`, ``taps`` has no effect.

        Raises:
            ValueError: a sample differs from the recorded one.
        """
        rows = self._rows[[item["position"] for item in batch]]
        stored = rows[:, :CHECKSUM].copy().view(np.uint32)[:, 0]
        for item, name, want in zip(batch, file_names(batch), stored, strict=True):
            if checksum(item) != want:
                raise ValueError(
                    f"TEACHER.CACHE {self.folder.path}: sample {item['position']} ({name}) is not the one that was "
                    f"recorded: data, augmentation or a library has changed since. {ADVICE}"
                )
        index = self.folder.index
        logits = decode(np.ascontiguousarray(rows[:, CHECKSUM:]), index["format"], index["shape"])
        output = SegOutput(send(logits, device))
        return Pending(lambda: output)


def samples_needed(cfg: CfgNode) -> int:
    """Returns the number of samples that a training run reads."""
    count = cfg.SOLVER.MAX_ITER * cfg.SOLVER.ACCUMULATE * cfg.SOLVER.IMS_PER_BATCH
    return min(count, cfg.DATALOADER.REPEAT or count)


def recorded_for(cfg: CfgNode) -> dict[str, Any]:
    """Returns the settings that a cache depends on: those of the training samples, and the teachers with file hashes.

    Batch size, number of processes and iterations are not among them: a sample depends on seed and position only.
    """
    flat = {key: _plain(_get(cfg, key)) for key in (*STREAM, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "TEACHER.COMBINE")}
    for (key, node), share in zip(teacher_nodes(cfg).items(), teacher_shares(cfg), strict=True):
        if not share:
            continue
        flat[f"{key} share"] = share
        flat |= {f"{key}.{name}": _plain(node[name]) for name in ("CLASS_MAP", "AMP", "OPTIMIZE")}
        flat |= {f"{key}.{name}": _digest(node[name], f"{key}.{name}") for name in ("WEIGHTS", "EXPORTED")}
        own = load_teacher_cfg(cfg, node, key) if node.CONFIG_FILE else None
        flat[f"{key}.CONFIG_FILE"] = _network(own) if own is not None else ""
    return flat


def _network(cfg: CfgNode) -> str:
    model = yaml.safe_load(cfg.MODEL.dump())
    for place in ("DEVICE", "WEIGHTS", "FILE_STATEMENTS"):
        model.pop(place)
    return hashlib.sha256(json.dumps([model, cfg.INPUT.FORMAT], sort_keys=True).encode()).hexdigest()[:16]


def _digest(path: str, key: str) -> str:
    if not path:
        return ""
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{key}: expected a file, got {path!r}. Its contents are compared with what TEACHER.CACHE was recorded for."
        )
    digests = [sha256_of(file) for file in weight_files(path)]
    return (digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest())[:16]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _get(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
