"""The built-in data does not depend on the installed numpy and, from 4.11 on, OpenCV: one set of digests for all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from bpkd.data import procedural
from bpkd.data.augment import TrainAugmentation
from bpkd.data.catalog import _drawn
from bpkd.data.procedural import make_scene

SCENES = [(0, i, *size) for size in ((96, 128), (64, 64)) for i in range(20)]
LABELS = "8dce82f0f97b909b"
IMAGES = "d4698314eb282fba"
OBJECTS = "cae5aed7e75f34f5"
AUGMENTED = "7d66d6323b3864e8"

# Without fused multiply-add OpenCV's and numpy's float32 differ in the last bit, and a few pixels by one grey level.
same_arithmetic = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="pinned on x86-64 with AVX2"
)

# What an older OpenCV draws is warned of instead.
same_polygons = pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < procedural.OPENCV, reason="pinned from OpenCV 4.11 on"
)


def digest(arrays: Iterator[np.ndarray]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


@same_polygons
def test_labels_and_ids_of_the_scenes() -> None:
    assert digest(plane for s in SCENES for plane in (make_scene(*s).labels, make_scene(*s).ids)) == LABELS


@same_polygons
@same_arithmetic
def test_images_of_the_scenes() -> None:
    assert digest(make_scene(*s).image for s in SCENES) == IMAGES


@same_polygons
def test_objects_of_the_scenes() -> None:
    rows = [(r["category_id"], *r["bbox"], r["segmentation"]["counts"]) for s in SCENES for r in _drawn(s)]
    assert digest(iter([np.frombuffer(repr(rows).encode(), np.uint8)])) == OBJECTS


@same_polygons
@same_arithmetic
def test_augmentation_of_a_sample() -> None:
    """Resize, crop, mirror and distortion, ten draws each of two scenes."""
    augment, rng = TrainAugmentation((48, 64)), np.random.default_rng(0)
    scenes = [make_scene(*s) for s in SCENES[:2]]
    pairs = [augment(np.ascontiguousarray(s.image[..., ::-1]), s.labels, rng) for s in scenes for _ in range(10)]
    assert digest(plane for pair in pairs for plane in pair) == AUGMENTED


@pytest.mark.parametrize(
    ("version", "other"), [("4.8.1", True), ("4.10.0.84", True), ("4.11.0", False), ("5.0.0", False)]
)
def test_an_opencv_that_draws_other_scenes_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str, other: bool
) -> None:
    monkeypatch.setattr(cv2, "__version__", version)
    procedural.warn_of_other_pixels.cache_clear()
    with caplog.at_level("WARNING", "bpkd"):
        procedural.warn_of_other_pixels()
        procedural.warn_of_other_pixels()
    procedural.warn_of_other_pixels.cache_clear()
    assert caplog.text.count(f"OpenCV {version} fills polygons differently") == other
