"""Files: their SHA-256, JSON that every reader knows, writing one whole or not at all. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bpkd.errors import RunFailedError

# Longest beginning of a file's name that its unfinished part keeps, in bytes: names have at most 255.
_STEM = 120
ADVICE = "Make room, or choose another place"
# Errors of a place that takes no more, which do not name the file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# Words of torch's errors about a file that could not be written, which have no type of their own.
_WRITER = ("PytorchStreamWriter", "failed writing", "file write failed", "unexpected pos")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns a file's SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Replaces a file whole or not at all.

    Args:
        path: The file to write; its folder is made. A device or pipe is written to directly.

    Yields:
        A path beside it, with the same suffix, to write to. The file gets its name when the block ends without an
        error; after an error it is removed, and ``path`` is what it was.

    Raises:
        OSError: the file cannot be written; the message names it, not its part.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with replacing(target) as part:
    ...     _ = part.write_text("1 2 3")
    >>> target.read_text()
    '1 2 3'
    """
    target = Path(path)
    part = target
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if not target.exists() or target.is_file():
            target = Path(os.path.realpath(target))  # a link stays a link
            target.parent.mkdir(parents=True, exist_ok=True)
            part = _part(target)
        yield part
        if part != target:
            os.replace(part, target)
    except OSError as error:
        raise _unwritten(error, Path(path), part) from error
    except RuntimeError as error:
        if any(words in str(error) for words in _WRITER):
            raise RunFailedError(f"{path}: cannot be written ({error}). {ADVICE}.") from error
        raise
    finally:
        if part != target:
            part.unlink(missing_ok=True)


def _part(target: Path) -> Path:
    """Returns the name of the unfinished file: after the process, since several may write the same one."""
    stem, own = target.stem, f".{os.getpid()}.part{target.suffix}"
    if len(os.fsencode(stem)) > _STEM:
        stem = hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]
    return target.with_name(f".{stem}{own}")


def _unwritten(error: OSError, target: Path, part: Path) -> OSError:
    """Returns an error about the file itself; one about another file, read meanwhile, is returned as it is."""
    places = {str(p) for p in (part, target, *target.parents)}
    full = error.filename is None and (error.errno in _FULL or "encoder error" in str(error))
    if not full and str(error.filename) not in places:
        return error
    reason = error.strerror or str(error)
    return OSError(
        error.errno or errno.EIO, f"cannot be written ({reason[:1].lower()}{reason[1:]}). {ADVICE}", str(target)
    )


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def plain(value: Any) -> Any:
    """Returns the same with None for nan and infinity, in dicts and lists too: JSON does not know them."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(content: Any, *, indent: int | None = 1) -> str:
    """Returns JSON as the standard has it, with null for nan and infinity.

    Args:
        content: plain values.
        indent: blanks per level; None: one line.

    >>> json_text({"mIoU": float("nan")}, indent=None)
    '{"mIoU": null}'
    """
    return json.dumps(plain(content), indent=indent, allow_nan=False)


def write_json(path: str | os.PathLike[str], content: Any, *, indent: int | None = 1) -> None:
    """Writes a JSON file, see ``json_text``, whole or not at all."""
    write_text(path, json_text(content, indent=indent) + "\n")
