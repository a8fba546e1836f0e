"""Reads a COCO file's JSON and says what a file is that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bpkd.data.files import DatasetError

PARTS = ("images", "annotations", "categories")
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself (run git lfs pull)",
    b"<": "an HTML or XML page",
    b"PK\x03\x04": "a ZIP archive (unpack it)",
    b"\x1f\x8b": "a gzip file (unpack it)",
    b"\x89PNG": "an image",
    b"\xff\xd8": "an image",
}
# Keys by which another tool's format is known.
OTHERS = {
    "shapes": "a file of LabelMe, which describes one image: convert the folder to COCO's format",
    "_via_img_metadata": "a project of VIA: export it in COCO's format",
    "_via_settings": "a project of VIA: export it in COCO's format",
    "segments_info": "a panoptic annotation",
    "_BASE_": "a config",
}


def read_json(path: Path) -> dict[str, Any]:
    """Returns the top level of a COCO file; UTF-8 with a mark at its beginning and UTF-16 are read as well.

    Args:
        path: file.

    Raises:
        DatasetError: it is no JSON object; the message says what it is.
        OSError: it cannot be read.
    """
    raw = path.read_bytes()
    if not raw.strip():
        raise DatasetError(f"{path} cannot be read as a COCO file: expected JSON, got an empty file.")
    head, size = raw[:64], len(raw)
    try:
        text = raw.decode(json.detect_encoding(raw))
        del raw  # a large file need not be there twice
        found = json.loads(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise DatasetError(
            f"{path} cannot be read as a COCO file: expected the key {error} once, got it twice, and only one of the "
            "two can be meant. Join the two."
        ) from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} cannot be read as a COCO file: expected JSON, got {_fault(head, size, error)}."
        ) from error
    if not isinstance(found, dict):
        raise DatasetError(f"{path} cannot be read as a COCO file: expected {', '.join(PARTS)}, got {_other(found)}.")
    return found


def parts(path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Returns images, annotations and categories of a COCO file as they stand there.

    Args:
        path: file.

    Raises:
        DatasetError: one of the three is missing or is no list.
    """
    found = read_json(path)
    wrong = [key for key in PARTS if not isinstance(found.get(key), list)]
    if wrong:
        got = "; ".join(f"{key}: {'none' if found.get(key) is None else type(found[key]).__name__}" for key in wrong)
        kind = next((text for key, text in OTHERS.items() if key in found), "")
        raise DatasetError(
            f"{path} cannot be read as a COCO file: expected lists {', '.join(PARTS)}, got {got}."
            + (f" It looks like {kind}." if kind else "")
        )
    return found["images"], found["annotations"], found["categories"]


class _TwiceError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [key for key, _ in pairs]
        for key in (*PARTS, "segmentation", "bbox", "category_id", "image_id", "file_name"):
            if names.count(key) > 1:
                raise _TwiceError(repr(key))
    return out


def _fault(head: bytes, size: int, error: Exception) -> str:
    beginning = head.lstrip()
    for start, what in BEGINNINGS.items():
        if beginning.startswith(start):
            return what
    if isinstance(error, UnicodeDecodeError):
        return f"text that is not UTF-8 (byte {error.start})"
    if isinstance(error, json.JSONDecodeError):
        if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
            return f"a file that ends in the middle (line {error.lineno}, {size} bytes): a part of it is missing"
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    return str(error) or type(error).__name__


def _other(found: Any) -> str:
    if isinstance(found, list):
        one = found[0] if found else None
        if isinstance(one, dict) and "score" in one and "image_id" in one:
            return f"a results file (a list of {len(found)} detections with scores), which holds no labels"
        if isinstance(one, dict) and "image_id" in one and "category_id" in one:
            return f"a list of {len(found)} annotations without images and categories"
        return f"a list of {len(found)}"
    return f"a {type(found).__name__}"
