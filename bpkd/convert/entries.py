"""Pixel statistics and colour order in a checkpoint's own entries, under the names that people give them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .pixels import Pixels, pixels_of

# Entries that hold such statements, beside the file itself.
NODES = (
    "meta", "metadata", "hyper_parameters", "hparams", "config", "cfg", "args", "preprocess", "preprocessing",
    "normalize", "normalization", "img_norm_cfg", "data_preprocessor",
)  # fmt: skip
PAIRS = (("pixel_mean", "pixel_std"), ("image_mean", "image_std"), ("img_mean", "img_std"), ("mean", "std"))
ORDERS = ("input_format", "color_order", "channel_order", "format")
FLAGS = ("to_rgb", "bgr_to_rgb")


def entry_pixels(top: Mapping[Any, Any]) -> Pixels | None:
    """Finds mean, standard deviation and colour order among a file's entries, or in one of `NODES`.

    Args:
        top: content of the file.
    """
    places = [("", top), *((name, top.get(name)) for name in NODES)]
    nodes = [(name, node) for name, node in places if isinstance(node, Mapping)]
    inner = [(f"{a}.{b}", node.get(b)) for a, node in nodes if a for b in NODES]
    for name, node in (*nodes, *((name, node) for name, node in inner if isinstance(node, Mapping))):
        found = _of_node(node, f"its entry {name}" if name else "its entries")
        if found:
            return found
    return None


def _of_node(node: Mapping[Any, Any], where: str) -> Pixels | None:
    mean, std = next((pair for pair in PAIRS if pair[0] in node), PAIRS[0])
    order = _order(node)
    found = pixels_of(_value(node.get(mean)), _value(node.get(std)), order, where)
    return found or (Pixels((), (), order, where) if order else None)


def _order(node: Mapping[Any, Any]) -> str:
    named = next((value for key in ORDERS if isinstance(value := node.get(key), str)), "").upper()
    flag = next((value for key in FLAGS if isinstance(value := node.get(key), bool)), None)
    if flag is not None:
        return "RGB" if flag else "BGR"
    return named if named in ("RGB", "BGR") else ""


def _value(value: Any) -> Any:
    """Returns a list that a text holds, as those of safetensors' metadata are; anything else as it is."""
    if not isinstance(value, str) or len(value) > 1000:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
