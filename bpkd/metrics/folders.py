"""Pairs the label maps of two folders, predictions and labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from bpkd.listing import composed, ending, kinds, walk

logger = logging.getLogger(__name__)

# Of files that keep ids exactly.
EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".gif")
# Arrays of ids or scores, read where there is no picture of the name.
ARRAYS = (".npy", ".npz")
JPEG = (".jpg", ".jpeg")
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
    label_extensions: Sequence[str] = EXTENSIONS,
) -> list[tuple[str, Path, Path]]:
    """Pairs the files of two folders by their path inside it, without the suffix.

    Args:
        predictions: folder, or one file.
        labels: folder, or one file.
        prediction_suffix: end of the names that is no part of the pair's name, such as "_pred.png"; empty: the
            extension.
        label_suffix: end of the labels' names that is no part of the pair's name, such as "_gtFine_labelTrainIds.png".
        what: word for the first folder's files in messages.
        extensions: extensions of the first folder's files.
        label_extensions: extensions of the labels, which keep ids exactly.

    Returns:
        (name, prediction, label) by name.

    Raises:
        ValueError: a folder is missing or empty, or files have no partner; the message names them.
    """
    if predictions.is_file() and labels.is_file():
        return [(predictions.stem, predictions, labels)]
    found, rest = _named(predictions, prediction_suffix, extensions)
    wanted, others = _named(labels, label_suffix, label_extensions)
    problems = _without_partner(wanted, found, "label", what) + _without_partner(found, wanted, what, "label")
    left = ((predictions, rest, prediction_suffix, extensions), (labels, others, label_suffix, label_extensions))
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
    # Pictures first: an array beside a picture of its name holds its scores.
    for path in sorted(walk(folder).files, key=lambda p: (p.suffix.lower() in ARRAYS, p)):
        end = ending(path.name, [suffix] if suffix else extensions)
        name = composed(path.relative_to(folder).as_posix().removesuffix(end))
        if not end:
            others.append(path)
        elif name not in files:
            files[name] = path
        elif not suffix and path.suffix.lower() in ARRAYS:
            others.append(path)
        else:
            raise ValueError(f"{folder}: {files[name].name} and {path.name} are both {name}. Give the suffix.")
    if not files:
        jpeg = sum(p.suffix.lower() in JPEG for p in others)
        hint = f" {jpeg} are JPEG files, which smear ids: save PNG." if jpeg and not set(JPEG) & {*extensions} else ""
        got = kinds(others) or "none"
        raise ValueError(f"{folder}: expected files that end in {suffix or ', '.join(extensions)}, got {got}.{hint}")
    return files, others
