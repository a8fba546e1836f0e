"""Paths as people write them: ``~``, environment variables, URLs, and the separators of Windows. Standard library."""

from __future__ import annotations

import os
import re

from bpkd.errors import UserError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
VARIABLE = re.compile(r"\$(?:\$|([A-Za-z_]\w*)|\{([^}]*)\})", re.ASCII)


def expanded(text: str, name: str) -> str:
    """Returns a path with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` replaced; ``$$`` is a dollar sign.

    A URL stays what it is.

    Args:
        text: path as it was written.
        name: key or option that holds it, for messages.

    Raises:
        UserError: a variable is not set or empty, or there is no such user.

    >>> os.environ["SCRATCH"] = "/scratch"
    >>> expanded("$SCRATCH/run", "OUTPUT_DIR"), expanded("${SCRATCH}/a$$b", "OUTPUT_DIR")
    ('/scratch/run', '/scratch/a$b')
    """
    if URL.match(text):
        return text

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        variable = found[1] or found[2]
        if not os.environ.get(variable):
            raise UserError(
                f"{name}: {text!r}: expected an environment variable {variable!r}, which is not set or empty. Set it, "
                "or write $$ for a dollar sign that belongs to the name."
            )
        return os.environ[variable]

    path = os.path.expanduser(VARIABLE.sub(value, text))
    if path.startswith("~") and not os.path.lexists(path):
        user = path.partition("/")[0]
        raise UserError(f"{name}: {text!r}: there is no user {user[1:]!r}. A name that begins with ~ is ./{user}.")
    return path


def as_written(path: str | os.PathLike[str]) -> str:
    """Returns a path as a config or command holds it, so that `expanded` returns the path."""
    return os.fspath(path).replace("$", "$$")
