"""Names of any kind in Markdown and CSV tables, figure labels and TensorBoard tags. Standard library only.

Class names, runs and files have the names that people gave them. Each format has one function here that every writer
uses; HTML has ``html.escape`` of the standard library, on `one_line_text`.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence

# Longest label of a figure, in characters.
LABEL = 48
# What a spreadsheet takes for a formula, unless it is a number.
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")
_NUMBER = r"[+-]?(?:\d[\d.,]*|nan|inf)(?:e[+-]?\d+)?"
_PLAIN = re.compile(rf"-|{_NUMBER}(?:(?: ± | \.\. |/| / ){_NUMBER})*(?: ?%)?", re.IGNORECASE)
# Characters that Markdown (GitHub's too) takes for markup inside a cell.
_MARKUP = re.compile(r"[\\|`*<$~]|(?<!\w)_|_(?!\w)|\](?=[(\[])|&(?=#?\w+;)")
_ENTITIES = {"<": "&lt;", "&": "&amp;", "|": "\\|"}


class Markup(str):
    """Markdown that stands in a table as it is; other texts are escaped."""

    __slots__ = ()


def one_line_text(text: object) -> str:
    r"""Returns a text in one line without characters that cannot be seen, or that turn the direction of what follows.

    Args:
        text: any name; line breaks become blanks, other such characters their escape (``\x00``, ``\u202e``).

    >>> one_line_text("road\nleft")
    'road left'
    """
    line = " ".join(str(text).split("\n")) if "\n" in str(text) else str(text)
    line = re.sub(r"[\t\r\v\f\x85\u2028\u2029]", " ", line)
    return "".join(_escaped(c) if unicodedata.category(c) in ("Cc", "Cs") or c in _TURNING else c for c in line)


# Embeddings, overrides and isolates of the writing direction; right-to-left letters themselves are left alone.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def markdown_cell(text: object) -> str:
    r"""Returns a text as a cell of a Markdown table shows it.

    Args:
        text: plain text, or ``Markup``, which is returned as it is.

    >>> markdown_cell("a|b $x$ <b>")
    'a\\|b \\$x\\$ &lt;b>'
    """
    if isinstance(text, Markup):
        return str(text)
    return _MARKUP.sub(lambda found: _ENTITIES.get(found[0], "\\" + found[0]), one_line_text(text))


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table; all columns but the first are aligned right.

    Args:
        header: titles of the columns.
        rows: cells, plain text or ``Markup``.
    """
    rule = [Markup("---")] + [Markup("---:")] * (len(header) - 1)
    return "\n".join("| " + " | ".join(map(markdown_cell, cells)) + " |" for cells in (header, rule, *rows))


def csv_cell(text: object) -> str:
    """Returns a text as a cell that no spreadsheet computes: a leading =, +, - or @ that begins no number gets a '.

    Args:
        text: plain text.

    >>> csv_cell("=1+1"), csv_cell("-0.25"), csv_cell("-0.25 .. +1.00")
    ("'=1+1", '-0.25', '-0.25 .. +1.00')
    """
    line = one_line_text(text)
    return f"'{line}" if _FORMULA.match(line) and not _PLAIN.fullmatch(line) else line


def csv_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table as CSV text.

    Args:
        header: titles of the columns.
        rows: cells.
    """
    text = io.StringIO()
    csv.writer(text).writerows([csv_cell(cell) for cell in cells] for cells in (header, *rows))
    return text.getvalue()


def label(text: object, *, longest: int = LABEL) -> str:
    r"""Returns a text as matplotlib draws it: no mathematics between $, nothing hidden for a leading _, not too long.

    Args:
        text: plain text.
        longest: number of characters beyond which it is cut.

    >>> label("cost in $, price in $")
    'cost in \\$, price in \\$'
    """
    line = one_line_text(text)
    if len(line) > longest:
        line = line[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
    line = line.replace("$", r"\$")
    return f"\N{NO-BREAK SPACE}{line}" if line.startswith("_") else line


def tag(name: str) -> str:
    """Returns a name as a TensorBoard tag, which keeps names apart that TensorBoard itself would make the same.

    Args:
        name: key of a figure, such as ``sem_seg/IoU-<class>``; characters that a tag may not have become ``_x<code>_``,
            blanks ``_``.

    >>> tag("sem_seg/IoU-traffic light"), tag("sem_seg/IoU-a|b")
    ('sem_seg/IoU-traffic_light', 'sem_seg/IoU-a_x7C_b')
    """
    return re.sub(r"[^-/\w.]", lambda found: f"_x{ord(found[0]):X}_", name.replace(" ", "_"))
