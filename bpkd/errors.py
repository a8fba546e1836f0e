"""Errors as a user reads them: one line, the nearest known names, and the exit status. Imports nothing heavy."""

from __future__ import annotations

import difflib
import linecache
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

PACKAGE = Path(__file__).resolve().parent
MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
# Likeness (difflib's ratio) from which a name is offered: CDW and CWD have 0.67.
LEAST = 0.6
# Types of the package's own checks; anything else that is raised there is a fault of the program.
CHECKS = (ValueError, LookupError, TypeError, RuntimeError, NotImplementedError)


class UserError(ValueError):
    """A mistake in a command, a config or the data, as one line."""


class RunFailedError(RuntimeError):
    """A run that began and could not go on, as one line."""


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Returns the known names that look most like a misspelt one, the best first.

    Args:
        name: what was written.
        known: names that exist.
        count: most names to return.

    Example:
        >>> nearest("SOLVER.MAX_ITR", ["SOLVER.MAX_ITER", "SOLVER.BASE_LR"])
        ['SOLVER.MAX_ITER']
    """
    likeness = {one: difflib.SequenceMatcher(None, one.lower(), name.lower()).ratio() for one in known}
    least = max(LEAST, max(likeness.values(), default=0.0) - 0.05)
    return sorted((one for one in likeness if likeness[one] >= least), key=lambda one: -likeness[one])[:count]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a question with the nearest names and a space before it; "" where no known name is near.

    Args:
        name: what was written.
        known: names that exist.

    Example:
        >>> did_you_mean("compair", ["compare", "search"])
        ' Did you mean compare?'
    """
    found = nearest(name, known)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def exit_status(error: BaseException) -> int | None:
    """Returns the exit status that goes with one line about an error; None for a fault of the program.

    The package's checks say what was expected and what came: their sentence is enough. An error that Python or a
    library raises on its own is a fault of the program, except for files that cannot be read and packages that are
    missing.

    Args:
        error: caught exception, with its traceback.
    """
    if isinstance(error, UserError):
        return MISTAKE
    name = type(error).__name__
    if isinstance(error, RunFailedError | FloatingPointError | MemoryError) or name == "OutOfMemoryError":
        return FAILURE
    if isinstance(error, OSError):
        return MISTAKE
    if isinstance(error, ImportError):
        return MISTAKE if not (error.name or "").startswith("bpkd") else None
    if isinstance(error, CHECKS) and (_raised_here(error.__traceback__) or _worker_check(error)):
        ours = isinstance(error, RuntimeError) and name.endswith("FailedError")
        return FAILURE if ours else MISTAKE
    return None


def one_line(error: BaseException) -> str:
    """Returns an error's message without line breaks.

    Args:
        error: caught exception.
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}."
    found = _worker_check(error)
    text = found or str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    text = re.sub(r"(?<=[^\s:;,.])\s*\n[ \t]+", "; ", text)  # indented lines are the items of a list
    text = " ".join(text.split()) or type(error).__name__
    return text + ("" if "Did you mean" in text else _nearest_choice(text))


def _nearest_choice(text: str) -> str:
    """Returns a question with the names nearest to a refused one, of a message "expected one of A, B, got 'C'"."""
    found = re.search(r"expected one of (.*?),? got '([^']+)'", text)
    return did_you_mean(found[2], re.findall(r"[\w.+-]+", found[1])) if found else ""


def from_child(text: str) -> UserError | RunFailedError | None:
    """Returns the error that a child process ended with, from the traceback that it left; None for any other.

    Args:
        text: message of `torch.multiprocessing.ProcessRaisedException`.
    """
    for kind in (UserError, RunFailedError):
        found = re.search(rf"^{kind.__module__}\.{kind.__name__}: (.*)$", text, re.MULTILINE)
        if found:
            return kind(found[1])
    return None


def for_parent(error: Exception) -> Exception:
    """Returns what a child process raises in place of an error, so that `from_child` finds its line.

    Args:
        error: caught exception.
    """
    status = exit_status(error)
    if status is None:
        return error
    return (UserError if status == MISTAKE else RunFailedError)(one_line(error))


def _raised_here(trace: TracebackType | None) -> bool:
    """Whether the innermost frame of a traceback is a ``raise`` statement of this package."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return _is_raise(trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _is_raise(file: str, line: int) -> bool:
    path = Path(file)
    ours = path.is_absolute() and path.is_relative_to(PACKAGE)
    return ours and linecache.getline(file, line).lstrip().startswith("raise ")


def _worker_check(error: BaseException) -> str:
    """The message of a check that failed in a worker process of a loader; "" for anything else.

    torch raises it again with the worker's traceback as text: the last frame says whether a check raised it.
    """
    text = str(error)
    if "Original Traceback" not in text:
        return ""
    frames = re.findall(r'^  File "([^"]+)", line (\d+)', text, re.MULTILINE)
    message = re.search(r"^(?:[\w.]+): (.*)", text[text.rfind("\n  File ") :], re.MULTILINE | re.DOTALL)
    return message[1].strip() if frames and message and _is_raise(frames[-1][0], int(frames[-1][1])) else ""
