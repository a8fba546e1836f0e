"""Edge masks without a compiler: class sets as bit words in NumPy, looked up by OpenCV, counted by bit-plane adders.

All arrays of one image stay in the processor's cache, and every operation runs over contiguous memory.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .edge_rows import Window

Array = NDArray[Any]
VOID = 255  # the byte of an ignored pixel; classes are 0..254
# Classes per word (one bit more stands for every other label), and the type that OpenCV copies it as.
_WORDS = ((7, np.uint8, np.uint8), (15, np.uint16, np.uint16), (31, np.uint32, np.int32), (63, np.uint64, np.float64))


def obstacle(labels: Tensor, num_classes: int, sizes: list[tuple[int, int]]) -> str:
    """Returns why this path cannot run; empty: it can."""
    if labels.device.type != "cpu":
        return "it runs on the CPU alone"
    if num_classes > VOID:
        return f"it knows at most {VOID} classes"
    for h, w in sizes:
        for pixels, cells in ((labels.shape[1], h), (labels.shape[2], w)):
            if pixels % cells or (pixels // cells) & (pixels // cells - 1):
                return "it pools by powers of two only"
    try:
        import cv2  # noqa: F401
    except ImportError:
        return "OpenCV is not installed"
    return ""


def write_edges(labels: Tensor, targets: list[Tensor], window: Window) -> bool:
    """Writes the non-zero shares into zeroed maps.

    Args:
        labels: [N, H, W] integers on the CPU.
        targets: float32 [N, K, h, w] each.
        window: what makes an edge.

    Returns:
        False where a label is neither in 0..K-1 nor the ignored one; the maps are then unfinished.
    """
    codes = _codes(labels, targets[0].shape[1], window.ignore_index)
    if codes is None:
        return False
    images = codes.contiguous().numpy()
    arrays = [t.numpy() for t in targets]

    def one(n: int) -> bool:
        return _write_image(images[n], [a[n] for a in arrays], window)

    threads = min(torch.get_num_threads(), len(images))
    if threads < 2:
        return all(map(one, range(len(images))))
    with ThreadPoolExecutor(threads) as pool:
        return all(pool.map(one, range(len(images))))


def _codes(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor | None:
    """Returns the labels as bytes, ``VOID`` where ignored; None: a label has no byte."""
    if not labels.numel():
        return labels.to(torch.uint8)
    low, high = torch.aminmax(labels)
    absent = ignore_index < low or ignore_index > high
    if low >= 0 and (high <= VOID == ignore_index or (absent and high < num_classes)):
        return labels.to(torch.uint8)  # a label between the classes and VOID is found in the histogram
    ignored = labels == ignore_index
    low, high = torch.aminmax(labels.masked_fill(ignored, 0))
    in_range = low >= 0 and high < num_classes
    return labels.to(torch.uint8).masked_fill(ignored, VOID) if in_range else None


def _write_image(codes: Array, targets: list[Array], window: Window) -> bool:
    import cv2

    present = np.flatnonzero(cv2.calcHist([codes], [0], None, [256], [0, 256]).ravel())
    classes = present[present != VOID]
    if len(classes) and classes[-1] >= len(targets[0]):
        return False
    if len(present) < 2:
        return True
    capacity, word, copied = next((row for row in _WORDS if len(classes) <= row[0]), _WORDS[-1])
    for start in range(0, len(classes), capacity):
        group = classes[start : start + capacity]
        table = np.full(256, 1 << capacity, word)
        table[group] = np.left_shift(1, np.arange(len(group), dtype=word), dtype=word)
        if window.transparent:
            table[VOID] = 0
        words = _window_sets(cv2.LUT(codes, table.view(copied)).view(word), window.side)
        if window.transparent:
            words[codes == VOID] = 0
        for target in targets:
            _count(words, group, target)
    return True


def _window_sets(words: Array, side: int) -> Array:
    """OR over the windows of [H, W] words, 0 where only one bit is left."""
    (height, width), r = words.shape, side // 2
    line = width + 2 * r  # zeros between the lines: a window never reaches into the next one
    now, then = (np.zeros((height + 2 * r) * line, words.dtype) for _ in range(2))
    now.reshape(-1, line)[r : r + height, r : r + width] = words
    n = len(now)
    for unit in (1, line):
        step = 1
        while step < side:
            move = min(step, side - step) * unit
            n -= move
            np.bitwise_or(now[:n], now[move : move + n], out=then[:n])
            now, then = then, now
            step += move // unit
    # What lies right of a line's width are windows across two lines: never looked at.
    size = height * line
    now = now[:size] if n >= size else np.concatenate([now[:n], np.zeros(size - n, now.dtype)])
    rest = np.subtract(now, 1, out=then[:size])
    rest &= now
    now *= rest != 0
    found: Array = now.reshape(height, line)[:, :width]
    return found


def _added(planes: list[Array], half: int) -> list[Array]:
    """Adds the first and the second half of axis 1, numbers given bit by bit: all classes of a word at once."""
    out: list[Array] = []
    carry: Array | None = None
    for plane in planes:
        a, b = plane[:, :half], plane[:, half:]
        both, odd = a & b, a ^ b
        if carry is not None:
            both |= odd & carry
            odd ^= carry
        out.append(odd)
        carry = both
    return [*out, carry] if carry is not None else out


def _count(words: Array, group: Array, target: Array) -> None:
    """Writes the share of each cell's pixels that hold each class's bit."""
    (height, width), (h, w) = words.shape, target.shape[1:]
    rows, columns = height // h, width // w
    planes = [words.reshape(h, rows, width)] if words.flags.c_contiguous else [_grouped(words, h, rows)]
    while planes[0].shape[1] > 1:
        planes = _added(planes, planes[0].shape[1] // 2)
    flat = [p.reshape(h * w, columns) for p in planes]
    any_bit = np.bitwise_or.reduce(flat)
    where = np.flatnonzero(any_bit.any(1))
    if not len(where):
        return
    planes = [p[where] for p in flat]
    while planes[0].shape[1] > 1:
        planes = _added(planes, planes[0].shape[1] // 2)
    # All classes of the group at once: their arrays are short, and each call has its price.
    bits = np.arange(len(group), dtype=words.dtype)[:, None]
    counts = np.zeros((len(group), len(where)), np.float32)
    for power, plane in enumerate(planes):
        digits = (plane[None, :, 0] >> bits) & words.dtype.type(1)
        counts += np.multiply(digits, 2**power, dtype=np.float32, casting="unsafe")
    target.reshape(len(target), h * w)[np.ix_(group, where)] = counts / rows / columns


def _grouped(words: Array, h: int, rows: int) -> Array:
    """[h, rows, W] view of lines with a gap between them."""
    line, item = words.strides
    return np.lib.stride_tricks.as_strided(words, (h, rows, words.shape[1]), (rows * line, line, item))
