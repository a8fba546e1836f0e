"""A comparison as one self-contained HTML file: image slider, sortable tables, glossary, figures."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from html import escape as escape_markup
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import quote

from bpkd.analysis.slider import Color, Picture, data_uri, legend_html, picture_data, slider_html
from bpkd.files import replacing
from bpkd.text import one_line_text

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SPREAD = " ±\N{NO-BREAK SPACE}"
"""A narrow column breaks "57.88 ± 1.20" in front of its deviation."""
WIDE = 900
"""Pixels from which a figure scrolls on a phone instead of shrinking until nobody can read it."""


def escape(text: str) -> str:
    """Returns a name of any kind as it stands in HTML."""
    return escape_markup(one_line_text(text))


class Link(NamedTuple):
    """A table cell that leads to a file or folder."""

    text: str
    path: str
    """Relative to the page, with "/" between folders."""


class Table(NamedTuple):
    """A table; columns whose cells all begin with a number sort by that number."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    """Cells: plain text or ``Link``; an empty one is shown as a dash."""

    best: Collection[tuple[int, int]] = ()
    """(row, column) of the cells that are shown in bold."""

    folded: bool = False
    """Only the number of rows is shown until a reader opens it."""


class Figure(NamedTuple):
    """A drawn figure."""

    title: str
    path: Path
    """PNG file."""

    description: str = ""
    """What the figure shows, for those who do not see it; by default the title."""


class Section(NamedTuple):
    """A part of the page below a heading, in the order of these fields."""

    heading: str
    lines: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()
    """(term, explanation) of a glossary."""

    tables: Sequence[Table] = ()
    hint: str = ""
    """Said once, above the tables."""

    figures: Sequence[Figure] = ()


def write_page(
    path: Path,
    *,
    title: str,
    lead: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
    start: tuple[str, str] | None = None,
    legend: Sequence[tuple[str, Color]] = (),
    sections: Sequence[Section] = (),
) -> int:
    """Writes a page that holds everything it shows: title, lead, pictures, then the sections.

    All texts are plain text. Links lead to files beside the page; nothing is loaded from anywhere.

    Args:
        path: HTML file to write; its folder is made.
        title: heading of the page.
        lead: the main result in one sentence, then sentences about it.
        pictures: test pictures for the slider, which compares any two of "image" and the layers.
        start: layers that the slider shows first, left and right; by default the first and the last.
        legend: names of colours with their RGB in 0..255, below the slider.
        sections: the rest of the page; those without contents are left out.

    Returns:
        The file's size in bytes.

    Raises:
        ValueError: a row is not as long as its header, a picture is not [H, W, 3] uint8, its layers differ in size or
            one is called "image", ``start`` names no layer of the first picture, or a figure is no PNG.
    """
    parts = {"Pictures": slider_html(pictures[0], start) + legend_html(legend)} if pictures else {}
    parts |= {s.heading: body for s in sections if (body := _body(s))}
    # Names of files may hold bytes that are no UTF-8.
    document = _document(title, lead, parts, pictures).encode(errors="backslashreplace")
    with replacing(path) as part:
        return part.write_bytes(document)


def _body(section: Section) -> str:
    terms = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in section.terms)
    return (
        (_list(section.lines) if section.lines else "")
        + (f'<dl class="terms">{terms}</dl>\n' if terms else "")
        + (_hint(section.hint) if section.hint and section.tables else "")
        + "".join(map(_table, section.tables))
        + "".join(map(_figure, section.figures))
    )


def _document(title: str, lead: Sequence[str], parts: Mapping[str, str], pictures: Sequence[Picture]) -> str:
    script = _asset("page.js")
    places = {heading: f"part-{i}" for i, heading in enumerate(parts, start=1)}
    links = "".join(f'<li><a href="#{place}">{escape(heading)}</a></li>' for heading, place in places.items())
    first, *more = ['<p class="lead">', *['<p class="about">'] * (len(lead) - 1)]
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        css=_asset("page.css"),
        js=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        lead="\n".join(f"{tag}{escape(_unbroken(line))}</p>" for tag, line in zip((first, *more), lead, strict=False)),
        contents=f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if len(parts) > 1 else "",
        sections="\n".join(_section(heading, places[heading], body) for heading, body in parts.items()),
        # Inside a script element only "<" could end it.
        pictures=json.dumps([picture_data(p) for p in pictures], ensure_ascii=False).replace("<", "\\u003c"),
    )


def _asset(name: str) -> str:
    return (files("bpkd.analysis") / name).read_text(encoding="utf-8")


def _section(heading: str, place: str, body: str) -> str:
    name = escape(heading)
    return (
        f'<section id="{place}" aria-labelledby="{place}-name">\n<h2 id="{place}-name">{name}</h2>\n{body}\n</section>'
    )


def _hint(text: str) -> str:
    return f'<p class="hint">{escape(text)}</p>\n'


def _unbroken(text: str) -> str:
    return text.replace(" %", "\N{NO-BREAK SPACE}%").replace(" .. ", "\N{NO-BREAK SPACE}..\N{NO-BREAK SPACE}")


def _list(lines: Sequence[str]) -> str:
    return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(table: Table) -> str:
    title, header, rows = escape(table.title), table.header, table.rows
    for row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"table {table.title!r}: expected {len(header)} cells per row as in its header, got {len(row)}: "
                f"{list(row)}"
            )
    heads = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in header)
    body = "\n".join(_row(row, [(i, j) in table.best for j in range(len(row))]) for i, row in enumerate(rows))
    found = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
    )
    if table.folded:
        found = f"<details><summary>{len(rows)} rows</summary>\n{found}</details>\n"
    return f"<h3>{title}</h3>\n{found}"


def _row(cells: Sequence[object], best: Sequence[bool]) -> str:
    first, *rest = (_cell(cell) for cell in cells)
    found = [f'<tr><th scope="row">{first.replace("+", "+<wbr>")}</th>']  # "KD+CWD" breaks between its methods
    for cell, marked in zip(rest, best[1:], strict=True):
        names = [name for name, has in (("best", marked), ("spread", SPREAD in cell)) if has]
        kind = f' class="{" ".join(names)}"' if names else ""
        found.append(f"<td{kind}><strong>{cell}</strong></td>" if marked else f"<td{kind}>{cell}</td>")
    return "".join([*found, "</tr>"])


def _cell(cell: object) -> str:
    if isinstance(cell, Link):
        return f'<a href="{escape(quote(cell.path))}">{escape(cell.text)}</a>'
    return escape(str(cell)).replace(" ± ", SPREAD) or "–"


def _figure(figure: Figure) -> str:
    title, path, description = figure
    encoded = Path(path).read_bytes()
    if not encoded.startswith(PNG_SIGNATURE):
        raise ValueError(f"figure {title!r}: expected a PNG file, got {path}; save it as PNG")
    wide = " wide" if int.from_bytes(encoded[16:20], "big") >= WIDE else ""  # the header's width
    name = escape(title)
    return (
        f'<figure><figcaption>{name}</figcaption><div class="plate{wide}">'
        f'<img src="{data_uri(encoded)}" alt="{escape(description) or name}"></div></figure>\n'
    )
