"""Reads a COCO file's tables of images and of categories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bpkd.data.files import DatasetError

from .fields import real
from .image_files import located, shown_size
from .notes import Notes, listed
from .outlines import shown

LONGEST = 10**6  # side of an image


def read_images(rows: list[Any], path: Path, folder: Path | None, notes: Notes) -> dict[Any, dict[str, Any]]:
    """Returns id -> {id, file_name, height, width}, in the file's order.

    Args:
        rows: ``images`` as they stand in the file.
        path: COCO file, for messages.
        folder: folder of the images, from whose files missing sizes are read; None: it is not known.
        notes: takes what was repaired.

    Raises:
        DatasetError: an image has no usable id, name or size, or one id stands for two files.
    """
    out: dict[Any, dict[str, Any]] = {}
    problems: list[str] = []
    for number, row in enumerate(rows):
        try:
            one = _image(row, number, folder, notes)
        except DatasetError as error:
            problems.append(str(error))
            continue
        other = out.setdefault(one["id"], one)
        if other is one:
            continue
        if other["file_name"] != one["file_name"]:
            problems.append(
                f"image id {one['id']!r} stands for two files, {other['file_name']} and {one['file_name']}: whose "
                "objects are meant? Give each image its own id"
            )
        else:
            notes.add("images are listed twice under one id and name: read once", one["id"], unit="image id")
    if problems:
        raise DatasetError(f"{path}: {len(problems)} of {len(rows)} images cannot be used:\n  {listed(problems)}")
    _same_files(out, notes)
    return out


def _image(row: Any, number: int, folder: Path | None, notes: Notes) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DatasetError(f"images[{number}]: expected an object with id, file_name, height, width, got {shown(row)}")
    key, name = row.get("id"), row.get("file_name")
    if not (real(key) or (isinstance(key, str) and key)):
        raise DatasetError(f"images[{number}] ({name}): expected an id, a number or a text, got {shown(key)}")
    if folder is None:  # the files are not read
        name = str(name if name is not None else key)
    elif not isinstance(name, str) or not name.strip() or "://" in name:
        url = name if isinstance(name, str) and "://" in name else row.get("coco_url") or row.get("flickr_url")
        hint = f", only the address {shown(url)}: download it, and name the file" if url else ""
        raise DatasetError(f"image id {key!r}: expected a file_name, got {shown(name)}{hint}")
    if folder is not None:
        name, repair = located(folder, name)
        if repair:
            notes.add(repair, key, unit="image id")
    height, width = _sizes(row, key, name, folder, notes)
    return {"id": key, "file_name": name, "height": height, "width": width}


def _sizes(row: dict[str, Any], key: Any, name: str, folder: Path | None, notes: Notes) -> tuple[int, int]:
    height, width = row.get("height"), row.get("width")
    if type(height) is int and type(width) is int and 0 < height <= LONGEST and 0 < width <= LONGEST:
        return height, width
    numbers = [_whole(v) for v in (height, width)]
    if numbers[0] and numbers[1]:
        notes.add(
            "images have a height or width that is text or no whole number: read as numbers", key, unit="image id"
        )
        return numbers[0], numbers[1]
    size = shown_size(folder / name) if folder is not None else None
    if size is None:
        raise DatasetError(
            f"image id {key!r} ({name}): expected height and width, got {shown(height)} and {shown(width)}, and the "
            "image file cannot be read for them"
        )
    notes.add("images have no height or width: read from the image files", key, unit="image id")
    return size


def _whole(value: Any) -> int | None:
    try:
        number = float(value)
        return int(number) if 0 < number <= LONGEST and number == int(number) and not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _same_files(images: dict[Any, dict[str, Any]], notes: Notes) -> None:
    seen: dict[str, Any] = {}
    for key, one in images.items():
        if seen.setdefault(one["file_name"], key) != key:
            notes.add(
                "images are listed again under another id: each entry has only its own objects, those of the other "
                f"entries count as background there ({one['file_name']} is one). Join the entries",
                key,
                unit="image",
            )


def read_categories(rows: list[Any], path: Path, note: Callable[[str, Any], None]) -> dict[int, str]:
    """Returns id -> name, sorted by id.

    Args:
        rows: ``categories`` as they stand in the file.
        path: COCO file, for messages.
        note: takes a repair and its category id.

    Raises:
        DatasetError: there is none, one has no usable id, or one id has two names.
    """
    if not rows:
        raise DatasetError(f"{path}: expected categories with id and name, got none: objects have no class without.")
    out: dict[int, str] = {}
    for number, row in enumerate(rows):
        key = row.get("id") if isinstance(row, dict) else None
        whole = _number(key)
        if whole is None:
            raise DatasetError(f"{path}: categories[{number}]: expected a whole number as id, got {shown(key)}.")
        if type(key) is not int:
            note("categories have an id that is text or no whole number: read as numbers", whole)
        name = _name(row.get("name"), whole, note)
        if out.setdefault(whole, name) != name:
            raise DatasetError(
                f"{path}: expected one name for category id {whole}, got {out[whole]!r} and {name!r}: whose objects "
                "are meant? Give each category its own id."
            )
    if len(out) < len(rows):
        note("entries of categories stand for fewer ids: those with the same id and name are read once", len(out))
    return _distinct(dict(sorted(out.items())), note)


def _number(value: Any) -> int | None:
    try:
        number = float(value)
        return None if isinstance(value, bool) or number != int(number) else int(number)
    except (TypeError, ValueError, OverflowError):
        return None


def _name(value: Any, key: int, note: Callable[[str, Any], None]) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if real(value):
        note("categories have a number as name: read as text", key)
        return str(value)
    note("categories have no name: called 'category ID'", key)
    return f"category {key}"


def _distinct(names: dict[int, str], note: Callable[[str, Any], None]) -> dict[int, str]:
    count: dict[str, int] = {}
    for name in names.values():
        count[name] = count.get(name, 0) + 1
    for key, name in names.items():
        if count[name] > 1:
            note("categories share a name: their ids are added to it", key)
            names[key] = f"{name} (id {key})"
    return names
