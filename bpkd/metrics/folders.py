"""Pairs the label maps of two folders, predictions and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
    found = _named(predictions, prediction_suffix, extensions)
    wanted = _named(labels, label_suffix, label_extensions)
    problems = _without_partner(wanted, found, "label", what) + _without_partner(found, wanted, what, "label")
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


def _named(folder: Path, suffix: str, extensions: Sequence[str]) -> dict[str, Path]:
    """Returns {path inside the folder without the suffix: file}."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder, which does not exist.")
    files: dict[str, Path] = {}
    # Pictures first: an array beside a picture of its name holds its scores.
    found = sorted((p for p in folder.rglob("*") if _counts(p, folder)), key=lambda p: (p.suffix.lower() in ARRAYS, p))
    for path in found:
        end = suffix if suffix and path.name.endswith(suffix) else ""
        if not suffix and path.suffix.lower() in extensions:
            end = path.suffix
        if not end:
            continue
        name = path.relative_to(folder).as_posix().removesuffix(end)
        if name not in files:
            files[name] = path
        elif suffix or path.suffix.lower() not in ARRAYS:
            raise ValueError(f"{folder}: {files[name].name} and {path.name} are both {name}. Give the suffix.")
    if not files:
        jpeg = sum(p.suffix.lower() in JPEG for p in found)
        hint = f" {jpeg} are JPEG files, which smear ids: save PNG." if jpeg and not set(JPEG) & {*extensions} else ""
        raise ValueError(f"{folder}: expected files that end in {suffix or ', '.join(extensions)}, found none.{hint}")
    return files


def _counts(path: Path, folder: Path) -> bool:
    """Whether a path is a file that people have put there: hidden files and folders are not."""
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
