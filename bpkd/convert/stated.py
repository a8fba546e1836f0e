"""What a checkpoint or a file beside it says about the images that its weights expect."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .entries import entry_pixels
from .pixels import CAFFE_PIXELS, IMAGENET_PIXELS, Pixels, pixels_of
from .tensorfile import parsed

logger = logging.getLogger(__name__)


AUTHORS = {"torchvision": IMAGENET_PIXELS, "caffe2": CAFFE_PIXELS, "msra": CAFFE_PIXELS}
NUMBERS = r"\s*=\s*[\[(]([\s\d.,eE+-]{1,200})[\])]"
# Beginning of a statement in a config of OpenMMLab -> its flag of the colour order, and the order without it.
BLOCKS = (
    (r"\bdata_preprocessor\s*=\s*dict\(", "(?:bgr_)?to_rgb", "BGR"),
    (r"\bimg_norm_cfg\s*=\s*dict\(", "to_rgb", "RGB"),
    (r"\bdict\(\s*type\s*=\s*['\"]Normalize['\"]", "to_rgb", "RGB"),
)
MOST_TEXT = 1 << 20


def stated_pixels(data: Any, state: Mapping[str, Any], path: str) -> Pixels | None:
    """Finds what a file states: in itself, or else in the config that lies beside it.

    Args:
        data: content of the file.
        state: the weights in it, all of them.
        path: the file.
    """
    top = data if isinstance(data, Mapping) else {}
    found = _own(top.get("bpkd"), "its entry bpkd") or _openmmlab(top.get("meta"))
    found = found or _timm(_json(top.get("metadata"), "pretrained_cfg"), "its metadata")
    found = found or _author(top) or _buffers(state) or entry_pixels(top)
    return found or _hugging_face(path) or (_run_config(path) if not top.get("meta") else None)


def _own(meta: Any, where: str) -> Pixels | None:
    if not isinstance(meta, Mapping):
        return None
    return pixels_of(meta.get("pixel_mean"), meta.get("pixel_std"), meta.get("input_format"), where, 1.0)


def _openmmlab(meta: Any) -> Pixels | None:
    if not isinstance(meta, Mapping):
        return None
    for key in ("img_norm_cfg", "data_preprocessor", "cfg", "config"):
        value = meta.get(key)
        if isinstance(value, str):
            found = _config_text(value[:MOST_TEXT], f"its meta.{key}")
        elif isinstance(value, Mapping):
            found = _config_node({key: value} if key not in ("cfg", "config") else value, f"its meta.{key}")
        else:
            found = None
        if found:
            return found
    return None


def _config_text(text: str, where: str) -> Pixels | None:
    for pattern, flag, default in BLOCKS:
        for match in re.finditer(pattern, text):
            block = _until_closed(text[match.start() : match.start() + 2000])
            lists = [re.search(rf"\b{name}{NUMBERS}", block) for name in ("mean", "std")]
            if not all(lists):
                continue
            turned = re.search(rf"\b{flag}\s*=\s*(True|False)", block)
            order = ("RGB" if turned[1] == "True" else "BGR") if turned else default
            mean, std = ([_float(v) for v in found[1].split(",") if v.strip()] for found in lists if found)
            return pixels_of(mean, std, order, where, 1.0)
    return None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _until_closed(text: str) -> str:
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == ")" and depth == 0:
            return text[: i + 1]
    return text


def _config_node(cfg: Mapping[Any, Any], where: str) -> Pixels | None:
    model = cfg.get("model")
    for name, default in (("data_preprocessor", False), ("img_norm_cfg", True)):
        node = cfg.get(name) or (model.get(name) if isinstance(model, Mapping) else None)
        if isinstance(node, Mapping):
            order = "RGB" if node.get("bgr_to_rgb", node.get("to_rgb", default)) is True else "BGR"
            return pixels_of(node.get("mean"), node.get("std"), order, where, 1.0)
    return None


def _json(notes: Any, key: str) -> Any:
    text = notes.get(key) if isinstance(notes, Mapping) else None
    return parsed(text) if isinstance(text, str) else text


def _timm(node: Any, where: str) -> Pixels | None:
    """What timm states: it counts in 0..1, and loads RGB."""
    return pixels_of(node.get("mean"), node.get("std"), "RGB", where, 255.0) if isinstance(node, Mapping) else None


def _author(top: Mapping[Any, Any]) -> Pixels | None:
    author = top.get("__author__")
    known = AUTHORS.get(author.lower()) if isinstance(author, str) else None
    if known is None and isinstance(top.get("blobs"), Mapping) and "conv1_w" in top["blobs"]:
        author, known = "Caffe2", CAFFE_PIXELS
    return Pixels(known.mean, known.std, known.order, f"by its author, {author}") if known else None


def _buffers(state: Mapping[str, Any]) -> Pixels | None:
    """Buffers of Detectron2's networks, which do not say the colour order."""
    for key in state:
        if isinstance(key, str) and re.search(r"(^|\.)pixel_mean$", key):
            std = state.get(f"{key.removesuffix('mean')}std")
            return pixels_of(state[key], std, "", f"its buffer {key}")
    return None


def _hugging_face(path: str) -> Pixels | None:
    config = _read(path, "config.json")
    node = config.get("pretrained_cfg", config)
    found = _timm(node, "config.json beside it")
    if found:
        return found
    images = _read(path, "preprocessor_config.json")
    return pixels_of(
        images.get("image_mean"), images.get("image_std"), "RGB", "preprocessor_config.json beside it", 255.0
    )


def _read(path: str, name: str) -> dict[str, Any]:
    text = _text_beside(path, name)
    return parsed(text) or {}


def _run_config(path: str) -> Pixels | None:
    """The config.yaml that Detectron2's and our runs write beside their checkpoints."""
    text = _text_beside(path, "config.yaml")
    if not text:
        return None
    try:
        import yaml

        cfg = yaml.safe_load(text)
        model, images = cfg["MODEL"], cfg.get("INPUT") or {}
        return pixels_of(
            model.get("PIXEL_MEAN"), model.get("PIXEL_STD"), images.get("FORMAT"), "config.yaml beside it", 1.0
        )
    except Exception:  # no config of Detectron2's kind, or no yaml: it states nothing
        return None


def _text_beside(path: str, name: str) -> str:
    file = os.path.join(os.path.dirname(os.path.abspath(path)), name)
    if not os.path.isfile(file) or os.path.getsize(file) > MOST_TEXT:
        return ""
    with open(file, encoding="utf-8", errors="replace") as f:
        return f.read()


def difference(stated: Pixels | None, mean: Sequence[float], std: Sequence[float], order: str) -> str:
    """Returns how a statement and a network's settings differ, "" where they agree or nothing is stated.

    Args:
        stated: what the file says.
        mean: the network's, of values 0..255.
        std: the network's.
        order: the network's colour order.
    """
    used = Pixels(tuple(mean), tuple(std), order)
    if stated is None or stated.same_as(used):
        return ""
    shown = [[round(v, 4) for v in values] for values in (mean, std)]
    return (
        f"the weights expect {stated}{f' ({stated.where})' if stated.where else ''}; the config has INPUT.FORMAT "
        f"{order}, MODEL.PIXEL_MEAN {shown[0]}, MODEL.PIXEL_STD {shown[1]}"
    )


def check_pixels(stated: Pixels | None, network: nn.Module, where: str, *, policy: str) -> None:
    """Compares what a file states with a network's pixel statistics and colour order, where it has any.

    Args:
        stated: what the file says.
        network: the network.
        where: the file and its key, for messages.
        policy: "refuse" or "warn".

    Raises:
        ValueError: they differ, and the policy is to refuse.
    """
    mean, std = (getattr(network, name, None) for name in ("pixel_mean", "pixel_std"))
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        return
    order = str(getattr(network, "input_format", ""))
    text = difference(stated, mean.flatten().tolist(), std.flatten().tolist(), order)
    _report(text, where, "set these keys to what the weights expect", policy)


def check_classes(stated: Sequence[str] | None, names: Sequence[str] | None, where: str, *, policy: str) -> None:
    """Compares the class names that a file states with those that it is used with, where both are known.

    Args:
        stated: the file's, in the order of the ids.
        names: those of the data set.
        where: the file and its key, for messages.
        policy: "refuse" or "warn".

    Raises:
        ValueError: they differ, and the policy is to refuse.
    """
    if not stated or not names:
        return
    pairs = list(enumerate(zip(stated, names, strict=False)))
    different = [f"{i}: {a!r} / {b!r}" for i, (a, b) in pairs if a.strip().lower() != b.strip().lower()]
    if len(stated) != len(names):
        different.insert(0, f"{len(stated)} / {len(names)} names")
    text = f"the weights have other classes than the data set (file / data set): {', '.join(different[:8])}"
    _report(text if different else "", where, "use the data set that they were trained on, or its CLASSES", policy)


def _report(text: str, where: str, advice: str, policy: str) -> None:
    if not text:
        return
    if policy == "warn":
        logger.warning("%s: %s.", where, text)
        return
    teacher = where.startswith("TEACHER")
    keys = " (in the teacher's CONFIG_FILE or OPTS)" if teacher else ""
    raise ValueError(
        f"{where}: {text}. Expected the two to agree: {advice}{keys}; or set MODEL.FILE_STATEMENTS warn there, if the "
        "difference is meant."
    )
