"""Images beyond Pillow's limit are opened, and the limit stays for others."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bpkd.images import open_image


def test_open_image_has_no_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "large.png"
    Image.new("L", (8, 4)).save(path)
    with open_image(path) as picture:
        assert picture.size == (8, 4)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
