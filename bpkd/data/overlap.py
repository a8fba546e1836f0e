"""Finds images that training and test sets share."""

from __future__ import annotations

from collections.abc import Iterable

from detectron2.data import DatasetCatalog, MetadataCatalog

from bpkd.listing import identity, some


def shared_images(train: Iterable[str], test: Iterable[str]) -> list[str]:
    """Returns a sentence about each test set that has images of the training sets, under whatever names and links.

    Args:
        train: names of training sets, whose files have been checked.
        test: names of test sets.
    """
    learned = {key for name in train for key, _ in _files(name)}
    notes = []
    for name in dict.fromkeys(test):
        files = _files(name)
        both = [path for key, path in files if key in learned]
        if both:
            notes.append(
                f"{name}: {len(both)} of the {len(files)} images are training images too ({some(both[:3])}): "
                "figures on them say nothing about others."
            )
    return notes


def _files(name: str) -> list[tuple[tuple[int, int], str]]:
    if MetadataCatalog.get(name).get("published"):
        return []  # its check knows the splits, and its list takes long to read
    items = DatasetCatalog.get(name)
    paths = [item["file_name"] for item in items if "procedural" not in item]
    return [(key, path) for path in paths if (key := identity(path)) is not None]
