"""A comparison as one HTML file that needs nothing else: sortable tables, an image slider, figures."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bpkd.extras import need

Image = NDArray[np.uint8]
Color = Sequence[int]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
IMAGE = "image"
WIDE = 900
"""Pixels from which a figure scrolls on a phone instead of shrinking until nobody can read it."""


class Table(NamedTuple):
    """A table; columns whose cells all begin with a number sort by that number."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]


class Figure(NamedTuple):
    """A drawn figure."""

    title: str
    path: Path
    """PNG file."""


class Picture(NamedTuple):
    """A test picture and what can be laid over it."""

    name: str
    image: Image
    """[h, w, 3] RGB; stretched to the layers' size if it has another."""

    layers: Mapping[str, Image]
    """label -> [H, W, 3] RGB, for instance the ground truth and each method's prediction, coloured."""


def write_page(
    path: Path,
    *,
    title: str,
    notes: Mapping[str, Sequence[str]] | None = None,
    tables: Sequence[Table] = (),
    pictures: Sequence[Picture] = (),
    start: tuple[str, str] | None = None,
    legend: Sequence[tuple[str, Color]] = (),
    figures: Sequence[Figure] = (),
    sources: Sequence[str] = (),
) -> int:
    """Writes the page, in the order of the arguments. It asks for nothing from outside: all is inlined.

    Args:
        path: HTML file to write; its folder is made.
        title: plain text, as everything here.
        notes: heading -> lines, what the reader should know first.
        tables: sortable by their headers.
        pictures: for the slider between any two of "image" and the layers.
        start: the two that the slider shows first, left and right; by default the first and the last.
        legend: class names with their RGB in 0..255, below the slider.
        figures: PNG files.
        sources: where the numbers come from, at the end.

    Returns:
        The file's size in bytes.

    Raises:
        ValueError: a row is not as long as its header, a picture is not [H, W, 3] uint8, its layers differ in size or
            one is called "image", ``start`` names no layer of the first picture, or a figure is no PNG.
    """
    sections = [_section(heading, _list(lines)) for heading, lines in (notes or {}).items()]
    if tables:
        sections.append(_section("Results", _hint("Click a header to sort.") + "".join(map(_table, tables))))
    if pictures:
        sections.append(_section("Pictures", _slider(pictures[0], start) + _legend(legend)))
    if figures:
        sections.append(_section("Figures", "".join(map(_figure, figures))))
    if sources:
        sections.append(_section("Where the numbers come from", _list(sources)))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(_document(title, sections, pictures).encode())


def _document(title: str, sections: Sequence[str], pictures: Sequence[Picture]) -> str:
    script = _asset("page.js")
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        css=_asset("page.css"),
        js=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        sections="\n".join(sections),
        # Inside a script element only "<" could end it.
        pictures=json.dumps([_picture(p) for p in pictures], ensure_ascii=False).replace("<", "\\u003c"),
    )


def png(image: Image) -> bytes:
    """Encodes an RGB image [H, W, 3] as PNG without loss, with a palette where 256 colours are enough."""
    need("Writing PNG files", "PIL")
    from PIL import Image as Pillow

    red, green, blue = image.astype(np.uint32).transpose(2, 0, 1)
    colors, places = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    if len(colors) <= 256:
        encoded = Pillow.fromarray(places.reshape(image.shape[:2]).astype(np.uint8))
        encoded.putpalette(b"".join(int(c).to_bytes(3, "big") for c in colors))
    else:
        encoded = Pillow.fromarray(image)
    out = io.BytesIO()
    encoded.save(out, "PNG", optimize=True)
    return out.getvalue()


def _asset(name: str) -> str:
    return (files("bpkd.analysis") / name).read_text(encoding="utf-8")


def _data_uri(encoded: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(encoded).decode()


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>"


def _hint(text: str) -> str:
    return f'<p class="hint">{text}</p>\n'


def _list(lines: Sequence[str]) -> str:
    return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(table: Table) -> str:
    title, header, rows = table
    for row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"table {title!r}: expected {len(header)} cells per row as in its header, got {len(row)}: {list(row)}"
            )
    heads = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in header)
    lines = []
    for row in rows:
        first, *rest = (escape(str(cell)) for cell in row)
        lines.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>")
    body = "\n".join(lines)
    return (
        f'<h3>{escape(title)}</h3>\n<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _figure(figure: Figure) -> str:
    title, path = figure
    encoded = Path(path).read_bytes()
    if not encoded.startswith(PNG_SIGNATURE):
        raise ValueError(f"figure {title!r}: expected a PNG file, got {path}; save it as PNG")
    wide = " wide" if int.from_bytes(encoded[16:20], "big") >= WIDE else ""  # the header's width
    name = escape(title)
    return (
        f'<figure><figcaption>{name}</figcaption><div class="plate{wide}">'
        f'<img src="{_data_uri(encoded)}" alt="{name}"></div></figure>\n'
    )


def _legend(legend: Sequence[tuple[str, Color]]) -> str:
    items = []
    for name, color in legend:
        red, green, blue = (int(c) for c in color)
        items.append(f'<li><i style="background:rgb({red},{green},{blue})"></i>{escape(name)}</li>')
    return '<ul class="legend" aria-label="Classes">' + "".join(items) + "</ul>" if items else ""


def _slider(first: Picture, start: tuple[str, str] | None) -> str:
    labels = _layers(first)
    left, right = start or (next(iter(labels)), list(labels)[-1])
    for label in (left, right):
        if label not in labels:
            raise ValueError(f"start: expected two of {list(labels)}, got {label!r}")
    selects = "".join(
        f'<label>{word}<select data-part="{side}-select" data-start="{escape(label)}"></select></label>'
        for side, word, label in (("left", "Left", left), ("right", "Right", right))
    )
    hint = "Drag across the picture, or focus it and use the arrow keys."
    return (
        f'<div id="slider">{_hint(hint)}<div class="controls"><label>Picture<select data-part="picture"></select>'
        f'</label>{selects}<button type="button" data-part="swap">Swap sides</button></div>\n'
        '<div class="view" data-part="view"><img class="right" data-part="right-image" alt="">'
        '<img class="left" data-part="left-image" alt="">'
        '<input type="range" data-part="range" min="0" max="100" step="1" value="50" '
        'aria-label="Divider between the left and the right picture"><div class="divider"></div></div>\n'
        '<div class="names"><span data-part="left-name"></span><span data-part="right-name"></span></div></div>\n'
        '<noscript><p class="hint">The slider and the sorting need JavaScript.</p></noscript>\n'
    )


def _layers(picture: Picture) -> dict[str, Image]:
    """Returns all that the slider can show, the image first."""
    name, image, layers = picture
    if IMAGE in layers:
        raise ValueError(f"picture {name!r}: a layer is called {IMAGE!r}, as the picture itself is; rename it")
    found = {IMAGE: image, **layers}
    for label, pixels in found.items():
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(
                f"picture {name!r}, {label!r}: expected [H, W, 3] RGB of uint8, got {list(pixels.shape)} of "
                f"{pixels.dtype}; colour a label map, move the channels to the end"
            )
    sizes = {label: pixels.shape[:2] for label, pixels in layers.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"picture {name!r}: expected layers of one size, got {sizes}; resize the predictions")
    return found


def _picture(picture: Picture) -> dict[str, Any]:
    found = _layers(picture)
    height, width = list(found.values())[-1].shape[:2]
    layers = [[label, _data_uri(png(pixels))] for label, pixels in found.items()]
    return {"name": picture.name, "width": width, "height": height, "layers": layers}
