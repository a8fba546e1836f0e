"""Paths as people write them: ``~``, environment variables, URLs, and the separators of Windows. Standard library."""

from __future__ import annotations

import os
import re
import unicodedata

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


def file_in(folder: str | os.PathLike[str], name: str) -> str:
    r"""Returns the path of a file that a list (COCO's ``file_name``) names, as the file is called here.

    The name is taken as it stands where such a file exists. Else a backslash separates folders, as Windows writes it,
    and letters with accents may be composed or decomposed (macOS). Where none of these exists, the first of them.

    Args:
        folder: folder that the name is relative to.
        name: name with its folders.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> os.mkdir(f"{folder}/sub")
    >>> _ = open(f"{folder}/sub/a.png", "w").close()
    >>> file_in(folder, r"sub\a.png") == f"{folder}/sub/a.png"
    True
    """
    first = os.path.join(folder, name)
    if "\\" not in name and name.isascii():
        return first
    ways = [name, name.replace("\\", "/")]
    ways += [unicodedata.normalize(form, way) for way in ways for form in ("NFC", "NFD")]
    paths = [os.path.join(folder, way) for way in ways]
    return next((path for path in paths if os.path.lexists(path)), paths[1])
