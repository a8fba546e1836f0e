"""Reads checkpoint files of several projects without executing anything in them."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .formats import READ, SHARD, TAR, folder_kind, kind_of
from .nests import AmbiguousError, Fits, open_entries, peel, take_prefix, without_inner
from .pixels import Pixels
from .shards import read_shards
from .stated import stated_pixels
from .tensorfile import read_npz, read_safetensors
from .torchfile import is_tar, read_restricted
from .unpickle import REBUILD
from .values import as_weights, blocked_in, colors_in, names_in, state_problem, unusable

logger = logging.getLogger(__name__)

# mmrazor's distillation checkpoints: the student, and what is there for the distillation alone.
STUDENT_PREFIX = "architecture."
DISTILLATION_PREFIXES = ("teacher.", "distiller.")


@dataclass(frozen=True)
class Checkpoint:
    """A file's weights and metadata."""

    state: dict[str, Tensor]
    classes: tuple[str, ...] | None
    layout: str
    """Project that wrote the file."""

    palette: tuple[tuple[int, ...], ...] | None = None
    """Colour of each class, None if the file states none."""

    meta: Mapping[str, Any] = field(default_factory=dict)
    """What a file of ours says about itself (its entry ``bpkd``)."""

    left_out: tuple[str, ...] = ()
    """Weights of the teacher and the losses in a distillation checkpoint; ``state`` holds the student alone."""

    replaced: tuple[str, ...] = ()
    """Python classes in the file that were not loaded."""

    pixels: Pixels | None = None
    """What the file, or the config beside it, says about the images; None if nothing."""

    notes: tuple[str, ...] = ()
    """Sentences about what was taken out of the file, stripped from its keys and left."""

    def peeled(self, fits: Fits, where: str, *, role: str = "student", complete: Fits | None = None) -> Checkpoint:
        """Strips the prefixes of wrappers from the keys, see `bpkd.convert.nests.peel`.

        Args:
            fits: whether keys belong to the network.
            where: the file, for messages.
            role: "student" or "teacher", where the keys have both prefixes.
            complete: whether keys are those of a whole network; None: as ``fits``.

        Raises:
            ValueError: keys of several networks fit.
        """
        try:
            taken = peel(self.state, fits, role=role, complete=complete)
        except AmbiguousError as error:
            raise ValueError(f"{where}: {error}.") from error
        notes, left = (*self.notes, *taken.notes), (*self.left_out, *taken.left_out)
        return dataclasses.replace(self, state=taken.state, notes=notes, left_out=left)


def read_checkpoint(path: str, *, source: str = "weights", role: str = "student", take: str = "") -> Checkpoint:
    """Reads a file in one of the known layouts.

    Known are ours and Detectron2's (``{"model": ..., "bpkd": ...}``), OpenMMLab's (``{"state_dict": ..., "meta":
    ...}``), mmrazor's distillation checkpoints, of which the student is taken, Lightning's, DeepSpeed's and timm's, and
    a bare state dict, of tensors or of numpy's arrays; in files of torch.save, pickles, safetensors and .npz, also in
    several with an index. The prefix ``module.`` of DistributedDataParallel is removed. Pickles with objects of Python
    classes are read by `read_restricted`, which replaces these by placeholders.

    Args:
        path: file.
        source: Option or key that the path comes from, for messages.
        role: "student" or "teacher": which is taken where the file has an entry for both.
        take: Name of the entry, or first part of the keys, to take; "": averaged weights before others.

    Returns:
        The weights in the file's order, and what the file says about itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another kind, holds no weights, or such that are not finite.
    """
    data, replaced = _content(path, source)
    try:
        found, notes = open_entries(data, role, take)
        state = as_weights(found)
        blocked = blocked_in(data, state)
        if blocked:
            raise ValueError(_unreadable(path, source, blocked))
        problem = state_problem(data, state)
        if problem:
            raise ValueError(f"{source}: {path} {problem}.")
        clean = without_inner(state)
        if take and not (isinstance(data, Mapping) and isinstance(data.get(take), Mapping)):
            clean = take_prefix(clean.state, take)
    except AmbiguousError as error:
        raise ValueError(f"{source}: {path}: {error}.") from error
    broken = unusable(clean.state)
    if broken:
        raise ValueError(f"{source}: {path} holds {broken}.")
    bare = _without_prefix(clean.state, "module.")
    student, left_out = _student(bare)
    if left_out:
        logger.info("%s %s: took the student, left out %d weights of the distillation.", source, path, len(left_out))
    names, palette, layout = _about(data)
    meta = data.get("bpkd") if layout == "bpkd" else {}
    said = (*notes, *clean.notes, *(("stripped module. from the keys",) if bare is not clean.state else ()))
    pixels = stated_pixels(data, state, path)
    own = meta if isinstance(meta, Mapping) else {}
    return Checkpoint(student, names, layout, palette, own, left_out, replaced, pixels, said)


def load_safely(path: str, *, source: str = "weights") -> Any:
    """Loads a file of tensors and plain values; nothing in it is executed.

    Raises:
        ValueError: the file is damaged or holds other Python objects.
    """
    kind = kind_of(path) if os.path.isfile(path) else "torch"
    if kind not in READ:
        raise ValueError(f"{source}: {path} cannot be read as a checkpoint: {kind}.")
    try:
        if is_tar(path):
            raise ValueError(TAR)
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on damaged files, KeyError and IndexError among them
        blocked = re.search(r"(?:GLOBAL|global) `?([\w.]+)`?", str(error))
        why = f"it holds the Python object {blocked[1]}, which is not loaded" if blocked else "the file is damaged"
        why = TAR if TAR in str(error) else why
        raise ValueError(_unreadable(path, source, why)) from error


def _content(path: str, source: str) -> tuple[Any, tuple[str, ...]]:
    """A file's content, and the Python classes in it that were not loaded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read.
    """
    if os.path.isdir(path):
        raise ValueError(f"{source}: expected a checkpoint file, got {path}: {folder_kind(path)}.")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{source}: expected a checkpoint file, got {path!r}: no such file.")
    shard = SHARD.match(os.path.basename(path))
    if shard and int(shard[3]) > 1:
        index = f"{shard[1]}{shard[4]}.index.json"
        why = f"it is one of {int(shard[3])} files of one checkpoint. Give their index, {index}, which lies beside them"
        raise ValueError(f"{source}: {path} cannot be read as a whole checkpoint: {why}.")
    kind = kind_of(path)
    if kind not in READ:
        raise ValueError(f"{source}: {path} cannot be read as a checkpoint: {kind}.")
    if kind != "index":
        return _load(path, kind, source)
    try:
        return read_shards(path, lambda file: _shard(file, source)), ()
    except (ValueError, OSError) as error:
        raise ValueError(f"{source}: {path} cannot be read as a checkpoint: {error}.") from error


def _shard(path: str, source: str) -> Mapping[str, Any]:
    kind = kind_of(path)
    if kind not in READ or kind == "index":
        raise ValueError(f"of its files, {os.path.basename(path)} cannot be read: {kind}")
    content, _ = _load(path, kind, source)
    state = open_entries(content, "student")[0]
    return state if isinstance(state, Mapping) else {}


def _load(path: str, kind: str, source: str) -> tuple[Any, tuple[str, ...]]:
    """Reads one file of a kind of `READ`, the index excepted."""
    if kind in ("safetensors", "npz"):
        try:
            return (read_safetensors if kind == "safetensors" else read_npz)(path), ()
        except ValueError as error:
            advice = "Download it again, or use another copy"
            text = f"{source}: {path} cannot be read as a checkpoint ({kind}): the file is damaged: {error}. {advice}."
            raise ValueError(text) from error
    refusal: ValueError | None = None
    if kind == "torch":
        try:
            return load_safely(path, source=source), ()
        except ValueError as error:
            refusal = error
    try:
        data, replaced = read_restricted(path)
    except ValueError as damage:
        if refusal and not any(f"object {name}," in str(refusal) for name in REBUILD):
            raise refusal from None
        raise ValueError(_unreadable(path, source, str(damage))) from None  # torch stops before it sees the damage
    if replaced:
        shown = ", ".join(replaced[:6]) + (", ..." if len(replaced) > 6 else "")
        logger.info("%s %s: read without the Python objects in it (%s).", source, path, shown)
    return data, replaced


def _check_sums(path: str) -> None:
    """Raises ValueError where a zip file's contents are not those that were written: torch.load does not look."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise ValueError("checksum")


def _unreadable(path: str, source: str, why: str) -> str:
    return (
        f"{source}: {path} cannot be read as a checkpoint of tensors and plain values: {why}. Save its state dict "
        "alone with torch.save, or use another copy."
    )


def _about(data: Any) -> tuple[tuple[str, ...] | None, tuple[tuple[int, ...], ...] | None, str]:
    """Class names, colours and the project that wrote a file."""
    if not isinstance(data, Mapping):
        return None, None, "unknown"
    if isinstance(data.get("bpkd"), Mapping) and data["bpkd"]:
        return names_in(data["bpkd"], "classes"), colors_in(data["bpkd"], "palette"), "bpkd"
    if "metadata" in data and isinstance(data.get("model"), Mapping):
        return None, None, "safetensors"
    if isinstance(data.get("model"), Mapping) or "blobs" in data:
        return None, None, "Detectron2"
    if "pytorch-lightning_version" in data:
        return None, None, "Lightning"
    if isinstance(data.get("state_dict"), Mapping):
        meta = data.get("meta")
        inner = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
        names = names_in(meta, "CLASSES") or names_in(inner, "classes") or names_in(inner, "CLASSES")
        colors = colors_in(meta, "PALETTE") or colors_in(inner, "palette") or colors_in(inner, "PALETTE")
        return names, colors, "OpenMMLab"
    return None, None, "state dict"


def _student(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Takes the student out of mmrazor's distillation checkpoints; other state dicts stay as they are."""
    if not any(key.startswith(STUDENT_PREFIX) for key in state):
        return state, ()
    left_out = tuple(key for key in state if key.startswith(DISTILLATION_PREFIXES))
    rest = {k.removeprefix(STUDENT_PREFIX): v for k, v in state.items() if k not in set(left_out)}
    return _without_prefix(rest, "model."), left_out


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if not all(key.startswith(prefix) for key in state):
        return state
    return {key[len(prefix) :]: value for key, value in state.items()}
