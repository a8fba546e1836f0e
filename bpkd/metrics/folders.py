"""Pairs and reads the label maps of two folders, predictions and labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpkd.extras import need
from bpkd.listing import composed, ending, kinds, walk

logger = logging.getLogger(__name__)

# Of files that keep ids exactly.
EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".gif")
# Largest number of names in a message.
SHOWN = 20


def pair_files(
    predictions: Path,
    labels: Path,
    *,
    prediction_suffix: str = "",
    label_suffix: str = "",
    what: str = "prediction",
    extensions: Sequence[str] = EXTENSIONS,
) -> list[tuple[str, Path, Path]]:
    """Pairs the files of two folders by their path inside it, without the suffix.

    Args:
        predictions: folder, or one file.
        labels: folder, or one file.
        prediction_suffix: end of the names that is no part of the pair's name, such as "_pred.png"; empty: the
            extension.
        label_suffix: end of the labels' names that is no part of the pair's name, such as "_gtFine_labelTrainIds.png".
        what: word for the first folder's files in messages.
        extensions: extensions of the first folder's files; labels have one that keeps ids exactly.

    Returns:
        (name, prediction, label) by name.

    Raises:
        ValueError: a folder is missing or empty, or files have no partner; the message names them.
    """
    if predictions.is_file() and labels.is_file():
        return [(predictions.stem, predictions, labels)]
    found, rest = _named(predictions, prediction_suffix, extensions)
    wanted, others = _named(labels, label_suffix, EXTENSIONS)
    problems = _without_partner(wanted, found, "label", what) + _without_partner(found, wanted, what, "label")
    left = ((predictions, rest, prediction_suffix, extensions), (labels, others, label_suffix, EXTENSIONS))
    for folder, files, suffix, ends in left:
        if files and problems:
            problems.append(f"{folder} also holds {kinds(files)}, where names end in {suffix or ', '.join(ends)}")
        elif files and not suffix:
            logger.warning(
                "%s: %d files are not read: %s. Names end in %s.", folder, len(files), kinds(files), ", ".join(ends)
            )
    if problems:
        raise ValueError(
            f"{predictions}, {labels}: {'; '.join(problems)}. Files belong together that have the same path without "
            "the suffix; suffixes that differ by more than the extension have to be given."
        )
    return [(name, found[name], wanted[name]) for name in sorted(wanted)]


def _without_partner(own: dict[str, Path], other: dict[str, Path], kind: str, partner: str) -> list[str]:
    """Returns a sentence about the files that the other side lacks, or none."""
    names = sorted(own.keys() - other.keys())
    rest = ", ..." if len(names) > SHOWN else ""
    return [f"{len(names)} of {len(own)} {kind}s have no {partner}: {', '.join(names[:SHOWN])}{rest}"] if names else []


def _named(folder: Path, suffix: str, extensions: Sequence[str]) -> tuple[dict[str, Path], list[Path]]:
    """Returns {path inside the folder without the suffix: file}, and the other files."""
    if not folder.is_dir():
        got = ", got a file." if folder.is_file() else ", which does not exist."
        raise ValueError(f"{folder}: expected a folder{got}")
    files: dict[str, Path] = {}
    others: list[Path] = []
    for path in walk(folder).files:
        end = ending(path.name, [suffix] if suffix else extensions)
        name = composed(path.relative_to(folder).as_posix().removesuffix(end))
        if not end:
            others.append(path)
        elif name in files:
            raise ValueError(f"{folder}: {files[name].name} and {path.name} are both {name}. Give the suffix.")
        else:
            files[name] = path
    if not files:
        got = kinds(others) or "none"
        raise ValueError(f"{folder}: expected files that end in {suffix or ', '.join(extensions)}, got {got}.")
    return files, others


def read_ids(path: Path) -> NDArray[np.int64]:
    """Reads a label map [H, W]; palette images give their indices.

    Raises:
        ValueError: the file cannot be read, or has colour channels.
    """
    need("Reading label maps", "PIL")
    from PIL import Image

    try:
        with Image.open(path) as picture:
            values: NDArray[Any] = np.asarray(picture)
            mode = picture.mode
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a label map ({error}).") from error
    if values.ndim != 2:
        raise ValueError(f"{path}: expected one channel of class ids, got mode {mode}. Colours are no ids.")
    return values.astype(np.int64)


def describe(result: dict[str, Any], class_names: Sequence[str] = ()) -> str:
    """Returns the figures of ``SegmentationMetrics.compute`` as two Markdown tables: the whole, and per class."""
    rules = result["protocol"]
    names = list(class_names) or [str(i) for i in range(rules["num_classes"])]
    lines = ["| figure | % |", "| --- | ---: |"]
    lines += [f"| {k} | {result[k]:.2f} |" for k in ("mIoU", "mAcc", "aAcc")]
    for w in rules["widths"]:
        edge, body = result["trimap"][w], result["body"][w]
        lines.append(f"| mIoU within {w} px of an edge ({edge['share']:.1f} % of the pixels) | {edge['mIoU']:.2f} |")
        lines.append(f"| mIoU elsewhere (body, w={w}) | {body['mIoU']:.2f} |")
    lines.append(f"| Boundary IoU | {result['boundary_IoU']:.2f} |")
    lines += [f"| boundary F, {t} px | {v['mF']:.2f} |" for t, v in result["boundary_F"].items()]
    columns = [result["IoU"], *(result["trimap"][w]["IoU"] for w in rules["widths"]), result["boundary_IoU_per_class"]]
    columns += [v["F"] for v in result["boundary_F"].values()]
    heads = ["class", "IoU", *(f"w={w}" for w in rules["widths"]), "Boundary IoU"]
    heads += [f"F {t} px" for t in rules["tolerances"]]
    lines += ["", "| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, *values in zip(names, *columns, strict=True):
        lines.append(f"| {name} | " + " | ".join("-" if v != v else f"{v:.2f}" for v in values) + " |")
    return "\n".join(lines)
