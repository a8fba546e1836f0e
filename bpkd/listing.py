"""Lists the files of a folder, the same way everywhere, and names the files that are written for them."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bpkd.errors import UserError

# Endings of the image formats that are read, in any case.
IMAGE_FORMATS = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm")
# What systems and storage put beside people's files, lower case; names that begin with a dot are hidden too.
SYSTEM = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin",
    "system volume information", "lost+found", "__pycache__",
}  # fmt: skip
# How a file begins that git-lfs puts in place of a large one, and the size that it stays below.
POINTER, LARGEST_POINTER = b"version https://git-lfs", 1024
# Largest number of names in a message.
SHOWN = 10
# File systems take 255 bytes; some are left for a temporary name.
LONGEST = 220


@dataclass
class Listing:
    """What a folder and the folders below it hold, without hidden and system files."""

    files: list[Path] = field(default_factory=list)
    """Files and dead links, sorted."""

    folders: list[Path] = field(default_factory=list)
    """Folders that are named like images."""

    loops: list[Path] = field(default_factory=list)
    """Links that lead back to a folder above them; they are not followed."""

    def named(self, folder: Path) -> Iterator[tuple[Path, str]]:
        """Yields each file with its path inside the listed folder, with "/"."""
        start = len(str(folder / "x")) - 1
        return ((path, str(path)[start:]) for path in self.files)

    def notes(self) -> list[str]:
        """Returns a sentence about each kind of entry that is no file."""
        found = [("folder is named like an image", "folders are named like images", self.folders)]
        found += [("link leads back to a folder above it", "links lead back to folders above them", self.loops)]
        return [
            f"{len(paths)} {one if len(paths) == 1 else many}: {some(map(str, paths))}."
            for one, many, paths in found
            if paths
        ]


def is_hidden(name: str) -> bool:
    """Whether a system or a program has put a file or folder there: ``._x.png``, ``.ipynb_checkpoints``, ``Thumbs.db``.

    >>> [is_hidden(name) for name in (".DS_Store", "Desktop.ini", "@eaDir", "a.png")]
    [True, True, True, False]
    """
    low = name.lower()
    return low.startswith(".") or low in SYSTEM or low.endswith(":zone.identifier")


def visible(path: Path, folder: Path) -> bool:
    """Whether neither a path nor a folder between it and ``folder`` is hidden."""
    return not any(map(is_hidden, path.relative_to(folder).parts))


def walk(folder: Path, *, without: Collection[Path] = ()) -> Listing:
    """Lists a folder and the folders below it; links to folders are followed.

    Args:
        folder: where to begin; its own name may be hidden.
        without: folders below it that are left out.

    Raises:
        UserError: a folder cannot be read, or a name is not UTF-8.
    """
    found = Listing()
    skipped = {key for path in without if (key := identity(path)) is not None}
    real = folder.resolve()
    above = frozenset(key for path in (real, *real.parents) if (key := identity(path)) is not None)
    _visit(folder, above, skipped, found)
    for paths in (found.files, found.folders, found.loops):
        paths.sort()
    return found


def _visit(folder: Path, above: frozenset[tuple[int, int]], skipped: set[tuple[int, int]], found: Listing) -> None:
    try:
        with os.scandir(folder) as entries:
            inside = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{folder}: expected a folder that can be read, got: {reason}.") from error
    for entry in inside:
        path = folder / entry.name
        check_name(path)
        if not _is_folder(entry):
            found.files.append(path)
            continue
        key = identity(path)
        if key is None or key in skipped:
            continue
        if key in above:
            found.loops.append(path)
            continue
        if path.suffix.lower() in IMAGE_FORMATS:
            found.folders.append(path)
        _visit(path, above | {key}, skipped, found)


def check_name(path: Path) -> None:
    """Checks that a file's name is UTF-8, as archives of old systems may not write it: OpenCV crashes on others.

    Raises:
        UserError: it is not.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError:
        name = path.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        message = f"{path.parent}: expected file names in UTF-8, got {name}. Rename it (convmv does a whole folder)."
        raise UserError(message) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Returns what a file is known by under all of its names and links; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def trouble(path: str | os.PathLike[str]) -> str:
    """Returns why a file cannot be read; "" where it is a file with something in it."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            return f"a link to {os.readlink(path)}, which does not exist"
        near = _other_spelling(Path(path))
        return f"missing; there is {near}" if near else "missing"
    except OSError as error:
        return f"cannot be opened ({(error.strerror or str(error)).lower()})"
    if not stat.S_ISREG(status.st_mode):
        return f"expected a file, got a {'folder' if stat.S_ISDIR(status.st_mode) else 'device or pipe'}"
    if not status.st_size:
        return "an empty file (0 bytes)"
    if status.st_size < LARGEST_POINTER and os.access(path, os.R_OK) and Path(path).read_bytes().startswith(POINTER):
        return "a pointer of git-lfs in place of the file: fetch it with git lfs pull"
    return "" if os.access(path, os.R_OK) else "cannot be opened (permission denied)"


def _other_spelling(path: Path) -> str:
    """Returns the name of a file beside a missing one that differs in the suffix's case or the form of accents."""
    names = [path.stem + path.suffix.lower(), path.stem + path.suffix.upper()]
    names += [unicodedata.normalize(form, path.name) for form in ("NFC", "NFD")]
    return next((name for name in names if os.path.isfile(path.with_name(name))), "")


def composed(text: str) -> str:
    """Returns a name with accents composed (NFC), so that names written by macOS equal those of other systems."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def ending(name: str, endings: Iterable[str]) -> str:
    """Returns the end of a name that is the first of some endings, in any case; "" where it has none of them."""
    low = name.lower()
    return next((name[-len(end) :] for end in endings if end and low.endswith(end.lower())), "")


def some(names: Iterable[str]) -> str:
    """Returns the first names of many."""
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")


def kinds(paths: Sequence[Path]) -> str:
    """Returns how many files of each suffix there are: ".gif (3), .heic (9)"."""
    count = Counter(path.suffix.lower() or "no suffix" for path in paths)
    return ", ".join(f"{suffix} ({number})" for suffix, number in sorted(count.items()))


def output_names(files: Mapping[str, Path]) -> dict[str, Path]:
    """Returns a name for what is written about each file, so that no two files share one.

    Args:
        files: path inside the folder, with "/" -> file.

    Returns:
        The path without its suffix -> file; with it where two differ in nothing else: a.jpg and a.png.

    >>> list(output_names({"a.jpg": Path("a.jpg"), "a.png": Path("a.png"), "b.png": Path("b.png")}))
    ['a.jpg', 'a.png', 'b']
    """
    names = {path: os.path.splitext(path)[0] for path in files}
    while True:
        # Not all file systems tell A from a.
        count = Counter(composed(name).casefold() for name in names.values())
        shared = [path for path, name in names.items() if count[composed(name).casefold()] > 1 and name != path]
        if not shared:
            break
        names |= {path: path for path in shared}
    taken: Counter[str] = Counter()
    unique: dict[str, Path] = {}
    for path, name in names.items():
        taken[key := composed(name).casefold()] += 1
        unique[name if taken[key] == 1 else f"{name}_{taken[key]}"] = files[path]
    return unique


def output_file(folder: Path, name: str, tail: str) -> Path:
    """Returns the path of a file to write; a name that no file system takes is cut and gets a checksum.

    Args:
        folder: folder of the outputs.
        name: name of `output_names`.
        tail: end of the file's name, with its suffix.
    """
    head, _, last = name.rpartition("/")
    room = LONGEST - len(tail.encode())
    if len(last.encode(errors="surrogateescape")) > room:
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:8]
        last = last.encode(errors="surrogateescape")[: room - 9].decode(errors="ignore") + f"~{digest}"
    return folder / head / f"{last}{tail}"
