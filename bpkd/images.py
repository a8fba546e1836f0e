"""Opens image files of any size. Needs Pillow alone."""

from __future__ import annotations

import os
import threading
from typing import IO, TYPE_CHECKING

from bpkd.extras import need

if TYPE_CHECKING:
    from PIL.Image import Image

_LOCK = threading.Lock()


def open_image(path: str | os.PathLike[str] | IO[bytes]) -> Image:
    """Opens an image file with Pillow without its limit of 179 megapixels, which satellite and slide images exceed.

    Pillow's limit protects servers from files of strangers; it is lifted while this file's header is read, and for no
    other caller.

    Args:
        path: file, by its name or opened; Pillow reads the pixels when they are first used.

    Returns:
        The image, a context manager that closes the file.

    Raises:
        OSError: the file is missing or no image.
    """
    need("Reading images", "PIL")
    from PIL import Image

    with _LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
