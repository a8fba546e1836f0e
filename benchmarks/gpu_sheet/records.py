"""Reads the sheet's records and locks their folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

from .items import Row


class RecordError(RuntimeError):
    """The records in OUT cannot be continued; the message says why and what to do."""


def read_record(path: Path) -> Row:
    """Returns a part's record.

    Raises:
        RecordError: the file is damaged, or is no record.
    """
    try:
        record: Row = json.loads(path.read_text())
        for key in ("part", "where", "environment", "calls", "items"):
            record[key]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__} {error}"
        raise RecordError(
            f"{path}: expected a record of the sheet, got {reason}. Remove it, or choose another OUT."
        ) from error
    return record


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Locks OUT against a second call.

    Raises:
        RecordError: another call is running.
    """
    with (out / "sheet.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecordError(
                f"{out}: another call of the sheet is running there. Wait, or choose another OUT."
            ) from error
        yield
