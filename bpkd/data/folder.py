"""Data of one's own as two folders, images and masks: which files belong together, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpkd.listing import IMAGE_FORMATS, SHOWN, Listing, composed, ending, identity, kinds, some, trouble, walk

from .files import DatasetError
from .sets.base import pair

KEY = "DATASETS.FOLDER"


@dataclass(frozen=True)
class FolderSplit:
    """One split: images and masks that have the same path inside their folder, up to the suffix."""

    images: Path
    masks: Path
    suffixes: tuple[str, ...] = ()
    """Ends of the images' names, in any case; empty: every format that is read."""

    mask_suffix: str = ".png"
    others: tuple[Path, ...] = ()
    """Image folders of other splits whose masks lie in the same folder."""

    def items(self) -> list[dict[str, Any]]:
        """Lists the images with their masks.

        An image without a mask is listed too: the check before training reports it.

        Raises:
            DatasetError: a folder does not exist, no file is an image, or two images belong to one mask.
        """
        images, masks = _Images(self), _masks(self)
        if not images.by_stem and images.rest:
            raise DatasetError(
                f"{self.images}: expected images that end in {self.endings}, got {kinds(images.rest)}. See "
                f"{KEY}.IMAGE_SUFFIXES."
            )
        return [
            pair(path, masks.get(composed(stem), self.masks / (stem + self.mask_suffix)), stem)
            for stem, path in images.by_stem.items()
        ]

    def remarks(self) -> list[str]:
        """Returns a sentence about each kind of file that is left out or has no partner."""
        images, masks = _Images(self), _masks(self)
        elsewhere = [_Images(FolderSplit(o, self.masks, self.suffixes)) for o in self.others if o.is_dir()]
        spare = sorted(masks.keys() - images.names.union(*(split.names for split in elsewhere)))
        notes = [*images.listing.notes(), *_left_out(self, images.rest)]
        if spare:
            have = "mask has" if len(spare) == 1 else "masks have"
            notes.append(f"{len(spare)} of the {len(masks)} {have} no image in {self.images}: {some(spare)}.")
        return [*notes, *_likely_masks(self, images, masks)]

    @property
    def endings(self) -> str:
        """The ends of the images' names, for messages."""
        return ", ".join(self.suffixes or IMAGE_FORMATS)

    @property
    def shared(self) -> bool:
        """Whether images and masks lie in one folder, where the suffix alone tells them apart."""
        return identity(self.images) == identity(self.masks)


class _Images:
    """The images of a split, and the files beside them."""

    def __init__(self, split: FolderSplit) -> None:
        self.listing = _walk(split, split.images, split.masks)
        self.by_stem: dict[str, Path] = {}
        self.rest: list[Path] = []
        same: dict[str, list[str]] = {}
        shared = split.shared
        for path, name in self.listing.named(split.images):
            if shared and ending(name, [split.mask_suffix]):
                continue
            end = ending(name, split.suffixes or IMAGE_FORMATS)
            if not end:
                self.rest.append(path)
                continue
            self.by_stem[name[: -len(end)]] = path
            same.setdefault(composed(name[: -len(end)]), []).append(name)
        self.names = set(same)
        if twice := [" and ".join(names) for names in same.values() if len(names) > 1]:
            raise DatasetError(
                f"{split.images}: expected one image for each mask, got several for {len(twice)}: {some(twice)}. "
                f"Remove or rename one of them, or say by {KEY}.IMAGE_SUFFIXES how the names of images end."
            )


def _walk(split: FolderSplit, folder: Path, other: Path) -> Listing:
    """Lists a folder; where the other one lies in it, without that one."""
    if not folder.is_dir():
        got = {"missing": "no such folder", "": "expected a folder, got a file"}.get(why := trouble(folder), why)
        raise DatasetError(f"{folder}: {got}. See {KEY} (ROOT, *_IMAGES, *_MASKS).")
    return walk(folder, without=[] if split.shared else [other])


def _masks(split: FolderSplit) -> dict[str, Path]:
    """Returns {path inside the folder without the suffix, accents composed: mask}."""
    found: dict[str, Path] = {}
    for path, name in _walk(split, split.masks, split.images).named(split.masks):
        end = ending(name, [split.mask_suffix])
        key = composed(name[: -len(end)]) if end else ""
        if end and (end == split.mask_suffix or key not in found):  # the suffix as it is written wins over a.PNG
            found[key] = path
    return found


def _left_out(split: FolderSplit, rest: list[Path]) -> list[str]:
    """Returns sentences about the files that are no images of the split."""
    chosen = [path for path in rest if split.suffixes and path.suffix.lower() in IMAGE_FORMATS]
    unread = [path for path in rest if not (split.suffixes and path.suffix.lower() in IMAGE_FORMATS)]
    notes = []
    if chosen:
        notes.append(
            f"{len(chosen)} images of {split.images} are left out by {KEY}.IMAGE_SUFFIXES {list(split.suffixes)}: "
            f"{kinds(chosen)}."
        )
    if unread:
        files = "1 file of {} is no listed image" if len(unread) == 1 else "{1} files of {0} are no listed images"
        notes.append(
            f"{files.format(split.images, len(unread))}: {kinds(unread)}. Images end in {split.endings}, in any case."
        )
    return notes


def _likely_masks(split: FolderSplit, images: _Images, masks: dict[str, Path]) -> list[str]:
    """Returns a sentence about a file that looks like the mask of an image that has none."""
    lone = [stem for stem in images.by_stem if composed(stem) not in masks]
    many = f"{len(lone)} image{'s have' if len(lone) > 1 else ' has'} no mask"
    pictures = set(images.by_stem.values())
    files = [path for path in _walk(split, split.masks, split.images).files if path not in pictures] if lone else []
    names = [composed(path.relative_to(split.masks).as_posix()) for path in files]
    for stem in map(composed, lone[:SHOWN]):
        for name in names:
            end = name[len(stem) :]
            if name.startswith(stem) and end[:1] in {".", "_", "-"}:
                return [f"{many}; that of {stem} may be {split.masks / name}: set {KEY}.MASK_SUFFIX {end}."]
            if name.casefold() == (stem + split.mask_suffix).casefold():
                return [f"{many}; that of {stem} may be {split.masks / name}, whose name differs in its case."]
    return []
