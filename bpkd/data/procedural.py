"""Procedural street scenes: drawn from a seed, exact labels, no download.

The class of an object follows from its texture and shape, never from its colour, which is drawn at random. So a
network has to learn patterns and context, and a larger one learns more of them. Poles and fences are a few pixels wide,
objects occlude each other, and the images have a brightness gradient and noise.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]
logger = logging.getLogger(__name__)
# Older ones fill polygons differently.
OPENCV = (4, 11)

CLASSES = ("sky", "building", "road", "grass", "pole", "fence", "striped", "checked", "dotted")
COLORS = (
    (120, 170, 220), (150, 110, 90), (110, 110, 120), (90, 160, 70), (230, 200, 60),
    (200, 90, 200), (220, 70, 60), (60, 90, 220), (60, 200, 190),
)  # fmt: skip
SKY, BUILDING, ROAD, GRASS, POLE, FENCE, STRIPED, CHECKED, DOTTED = range(len(CLASSES))


@dataclass(frozen=True)
class Instance:
    """An object with the mask of its visible part."""

    category: int
    mask: NDArray[np.bool_]
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels, the end exclusive."""


@dataclass(frozen=True)
class Scene:
    """An image with exact labels."""

    image: Array
    """[H, W, 3] RGB."""

    labels: Array
    """[H, W] class ids; every pixel has one."""

    ids: NDArray[np.uint16]
    """[H, W] 0 where there is no object, else 1 + the object's place in ``categories``."""

    categories: tuple[int, ...]
    """Class of every object that was drawn, hidden ones included."""

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Poles, fences and textured objects that are visible, in the order of painting."""
        # Computed on demand: scenes are cached, and the masks of objects would be their largest part.
        found = []
        for number, category in enumerate(self.categories, start=1):
            mask = self.ids == number
            if mask.any():
                ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
                found.append(Instance(category, mask, box))
        return tuple(found)


class _Canvas:
    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.h, self.w = rng, height, width
        self.unit = min(height, width) / 96.0  # sizes below are pixels of a 96-pixel picture
        self.yy, self.xx = np.mgrid[:height, :width].astype(np.float32)
        self.image = np.zeros((height, width, 3), np.float32)
        self.labels = np.zeros((height, width), np.uint8)
        self.ids = np.zeros((height, width), np.uint16)
        self.categories: list[int] = []

    def paint(self, mask: NDArray[np.bool_], category: int, texture: NDArray[np.float32]) -> None:
        """Paints a mask with a texture [H, W, 3]; things (poles and later classes) become instances."""
        cv2.copyTo(texture.astype(np.float32, copy=False), mask.view(np.uint8), self.image)
        self.labels[mask] = category
        self.ids[mask] = 0
        if category >= POLE:
            self.categories.append(category)
            self.ids[mask] = len(self.categories)

    def color(self, low: float = 40, high: float = 220) -> NDArray[np.float32]:
        return self.rng.uniform(low, high, 3).astype(np.float32)

    def two_colors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        a = self.color()
        shift = self.rng.uniform(60, 110, 3) * self.rng.choice((-1, 1))
        return a, np.clip(a + shift, 0, 255).astype(np.float32)

    def smooth_noise(self, sigma: float) -> NDArray[np.float32]:
        noise = self.rng.standard_normal((self.h, self.w)).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), sigma * self.unit).astype(np.float32, copy=False)
        return noise / (float(noise.std()) + 1e-6)

    def blend(self, pattern: NDArray[np.bool_]) -> NDArray[np.float32]:
        a, b = self.two_colors()
        return np.stack((b, a))[pattern.view(np.uint8)]


def _flat(c: _Canvas, spread: float, sigma: float, tint: tuple[float, float, float]) -> NDArray[np.float32]:
    """Returns a random greyish colour with noise of ``sigma`` pixels."""
    base = c.rng.uniform(80, 170) + np.asarray(tint, np.float32) * c.rng.uniform(0.3, 1.0)
    return (base + spread * c.smooth_noise(sigma)[..., None]).astype(np.float32)


def _background(c: _Canvas) -> None:
    everywhere = np.ones((c.h, c.w), bool)
    sky = _flat(c, 6, 12, (-10, 10, 40)) + (c.yy / c.h * c.rng.uniform(-40, 40))[..., None]
    c.paint(everywhere, SKY, sky)
    horizon = c.h * c.rng.uniform(0.4, 0.6)
    x = 0.0
    while x < c.w:
        wide = c.rng.uniform(12, 34) * c.unit
        if c.rng.random() < 0.75:
            top = horizon - c.rng.uniform(8, 34) * c.unit
            mask = (c.xx >= x) & (c.xx < x + wide) & (c.yy >= top)
            c.paint(mask, BUILDING, _facade(c))
        x += wide
    bend = horizon + 3 * c.unit * np.sin(c.xx / c.w * c.rng.uniform(2, 6) + c.rng.uniform(0, 6))
    c.paint(c.yy >= bend, GRASS, _flat(c, 14, 0.8, (-15, 15, -20)))
    centre = c.w * (0.5 + c.rng.uniform(-0.25, 0.25))
    lean, depth = c.rng.uniform(-0.5, 0.5), np.maximum(c.yy - bend, 0)
    half = c.w * 0.04 + depth * c.rng.uniform(0.5, 1.1)
    c.paint((c.yy >= bend) & (np.abs(c.xx - centre - lean * depth) < half), ROAD, _flat(c, 7, 2.5, (0, 0, 5)))


def _facade(c: _Canvas) -> NDArray[np.float32]:
    step = c.rng.uniform(5, 8) * c.unit
    windows = (c.xx % step < step * 0.45) & (c.yy % (1.3 * step) < 0.6 * step)
    wall = _flat(c, 4, 3, (15, 0, -10))
    return wall + np.where(windows, c.rng.choice((-1, 1)) * c.rng.uniform(25, 45), 0.0)[..., None].astype(np.float32)


def _rotated(c: _Canvas, angle: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    u = c.xx * math.cos(angle) + c.yy * math.sin(angle)
    v = c.yy * math.cos(angle) - c.xx * math.sin(angle)
    return u, v


def _pattern(c: _Canvas, category: int) -> NDArray[np.bool_]:
    """Returns slightly rotated stripes, checks or dots of one period."""
    period = c.rng.uniform(7.0, 10.0) * c.unit
    u, v = _rotated(c, c.rng.uniform(-0.35, 0.35))
    if category == STRIPED:
        return u % period < period / 2
    if category == CHECKED:
        return (u % period < period / 2) ^ (v % period < period / 2)
    du, dv = u % period - period / 2, v % period - period / 2
    return du**2 + dv**2 < (0.27 * period) ** 2


def _shape(c: _Canvas) -> NDArray[np.bool_]:
    mask = np.zeros((c.h, c.w), np.uint8)
    size = c.rng.uniform(16, 34) * c.unit
    x, y = c.rng.uniform(0, c.w), c.rng.uniform(0.25 * c.h, c.h)
    angle = c.rng.uniform(0, 180)
    kind = c.rng.integers(3)
    if kind == 0:
        axes = (max(2, round(size * 0.6)), max(2, round(size * c.rng.uniform(0.4, 0.6))))
        cv2.ellipse(mask, (round(x), round(y)), axes, angle, 0, 360, (1,), -1)
    else:
        if kind == 1:
            corners = cv2.boxPoints(((x, y), (size, size * c.rng.uniform(0.6, 1.2)), angle))
        else:  # a star-shaped polygon: jagged outlines
            turn = np.sort(c.rng.uniform(0, 2 * np.pi, 9))
            radius = size * c.rng.uniform(0.35, 0.8, 9)
            corners = np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1)
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], (1,))
    return mask.astype(bool)


def _objects(c: _Canvas) -> None:
    for _ in range(int(c.rng.integers(5, 9))):
        category = int(c.rng.choice((STRIPED, CHECKED, DOTTED)))
        c.paint(_shape(c), category, c.blend(_pattern(c, category)))


def _fence(c: _Canvas) -> None:
    step, slope = c.rng.uniform(6, 9) * c.unit, c.rng.uniform(-0.2, 0.2)
    y0, tall = c.h * c.rng.uniform(0.45, 0.75), c.rng.uniform(9, 16) * c.unit
    x0, wide = c.rng.uniform(-0.1, 0.6) * c.w, c.rng.uniform(0.3, 0.7) * c.w
    thick = max(1.0, 2.0 * c.unit)
    v = c.yy - y0 - slope * c.xx
    inside = (c.xx > x0) & (c.xx < x0 + wide) & (v > 0) & (v < tall)
    bars = (c.xx % step < thick) | (np.abs(v - 0.25 * tall) < thick / 2) | (np.abs(v - 0.75 * tall) < thick / 2)
    c.paint(inside & bars, FENCE, _flat(c, 5, 3, (0, 0, 0)) + c.rng.uniform(-50, 50))


def _pole(c: _Canvas) -> None:
    x, lean = c.rng.uniform(0, c.w), c.rng.uniform(-0.15, 0.15)
    top, foot = c.h * c.rng.uniform(0.0, 0.35), c.h * c.rng.uniform(0.6, 0.95)
    thick = c.rng.uniform(1.5, 2.8) * c.unit
    mask = (np.abs(c.xx - x - lean * c.yy) < thick) & (c.yy > top) & (c.yy < foot)
    shade = (c.xx - x - lean * c.yy)[..., None] / thick * 20
    c.paint(mask, POLE, (c.color(50, 200) + shade).astype(np.float32))


def _camera(c: _Canvas) -> Array:
    """Applies a brightness gradient, a slight blur and sensor noise."""
    turn = c.rng.uniform(0, 2 * np.pi)
    ramp = (c.xx / c.w - 0.5) * math.cos(turn) + (c.yy / c.h - 0.5) * math.sin(turn)
    image = c.image * (1 + c.rng.uniform(0.2, 0.6) * ramp)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), 0.6 * c.unit)
    image += c.rng.normal(0, c.rng.uniform(3, 8), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


@cache
def warn_of_other_pixels() -> None:
    """Warns once if the installed OpenCV draws other pixels than the version that the results were made with."""
    if tuple(map(int, re.findall(r"\d+", cv2.__version__)[:2])) < OPENCV:
        logger.warning(
            "Built-in scenes: OpenCV %s fills polygons differently: some pixels and labels are not those of OpenCV "
            "%d.%d and later, so scores cannot be compared. Install a later one.", cv2.__version__, *OPENCV,
        )  # fmt: skip


@lru_cache(maxsize=1024)
def make_scene(seed: int, index: int, height: int, width: int) -> Scene:
    """Draws one scene.

    Args:
        seed: Seed of the data set.
        index: Position of the scene in it; the same arguments give the same pixels.
        height: Height in pixels, at least 16.
        width: Width in pixels, at least 16.

    Returns:
        The scene; do not write into its arrays, they are cached.

    Raises:
        ValueError: the size is too small.
    """
    if min(height, width) < 16:
        raise ValueError(f"scene size: expected at least 16x16, got {height}x{width}.")
    warn_of_other_pixels()
    canvas = _Canvas(np.random.default_rng((seed, index)), height, width)
    _background(canvas)
    if canvas.rng.random() < 0.5:
        _fence(canvas)
    _objects(canvas)
    for _ in range(int(canvas.rng.integers(1, 4))):
        _pole(canvas)
    if canvas.rng.random() < 0.3:
        _fence(canvas)
    return Scene(_camera(canvas), canvas.labels, canvas.ids, tuple(canvas.categories))
