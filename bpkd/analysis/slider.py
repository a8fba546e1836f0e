"""The page's picture slider: any two layers of a test picture beside each other, in one frame."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bpkd.extras import need

Image = NDArray[np.uint8]
Color = Sequence[int]
IMAGE = "image"


class Picture(NamedTuple):
    """A test picture and what can be laid over it."""

    name: str
    image: Image
    """[h, w, 3] RGB; stretched to the layers' size if it has another."""

    layers: Mapping[str, Image]
    """label -> [H, W, 3] RGB, for instance the ground truth and each method's prediction, coloured."""


def slider_html(first: Picture, start: tuple[str, str] | None) -> str:
    """Returns the slider's elements, which the page's script fills.

    Args:
        first: picture that is shown first.
        start: layers that are shown first, left and right; None: the first and the last.

    Raises:
        ValueError: the picture is refused by ``picture_data``, or has no such layers.
    """
    labels = _layers(first)
    left, right = start or (next(iter(labels)), list(labels)[-1])
    for label in (left, right):
        if label not in labels:
            raise ValueError(f"start: expected two of {list(labels)}, got {label!r}")
    selects = "".join(
        f'<label>{word}<select data-part="{side}-select" data-start="{escape(label)}"></select></label>'
        for side, word, label in (("left", "Left", left), ("right", "Right", right))
    )
    hint = '<p class="hint">Drag across the picture, or focus it and use the arrow keys.</p>\n'
    return (
        f'<div id="slider">{hint}<div class="controls"><label>Picture<select data-part="picture"></select>'
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


def picture_data(picture: Picture) -> dict[str, Any]:
    """Returns a picture as the page's script reads it: name, size and layers as PNG.

    Raises:
        ValueError: a layer is not [H, W, 3] uint8, layers differ in size, or one is called "image".
    """
    found = _layers(picture)
    height, width = list(found.values())[-1].shape[:2]
    layers = [[label, data_uri(png(pixels))] for label, pixels in found.items()]
    return {"name": picture.name, "width": width, "height": height, "layers": layers}


def legend_html(legend: Sequence[tuple[str, Color]]) -> str:
    """Returns a list of colours with their names; "" without any."""
    items = []
    for name, color in legend:
        red, green, blue = (int(c) for c in color)
        items.append(f'<li><i style="background:rgb({red},{green},{blue})"></i>{escape(name)}</li>')
    return '<ul class="legend" aria-label="Colours">' + "".join(items) + "</ul>" if items else ""


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


def data_uri(encoded: bytes) -> str:
    """Returns a PNG file's bytes as an address that needs no file."""
    return "data:image/png;base64," + base64.b64encode(encoded).decode()
