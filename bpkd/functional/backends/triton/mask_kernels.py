"""Triton kernels of the class edge masks: label sets per window as bit words, see ``edge_sets`` for why that is exact.

columns: labels -> words, each the OR over a run of ``side`` columns
cells: words -> OR over ``side`` rows, dropped where one label is all there is, counted per class and cell
"""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = tl.constexpr(30)  # classes per int32 word; the next bit stands for every label outside the group


@triton.jit
def columns_kernel(
    labels: tl.tensor,  # [N H, W] integers
    words: tl.tensor,  # [groups, N H, W] int32, out
    H: tl.tensor,  # rows of all images
    W: tl.tensor,
    classes: tl.tensor,
    ignored: tl.tensor,
    SIDE: tl.constexpr,
    TRANSPARENT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program per row, BLOCK columns and group."""
    row, group = tl.program_id(0), tl.program_id(2)
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    base = row.to(tl.int64) * W
    low, found = group * GROUP, tl.zeros([BLOCK], tl.int32)
    high = tl.minimum(low + GROUP, classes)
    for d in tl.static_range(SIDE):
        at = x + (d - SIDE // 2)
        inside = (at >= 0) & (at < W)
        label = tl.load(labels + base + at, mask=inside, other=0)
        # A label outside the group, and the void that is a label of its own, share a bit.
        own = (label >= low) & (label < high) & (label != ignored)
        one = tl.full([BLOCK], 1, tl.int32)
        word = one << tl.where(own, (label - low).to(tl.int32), GROUP)
        if TRANSPARENT:
            word = tl.where(label == ignored, 0, word)
        found |= tl.where(inside, word, 0)
    tl.store(words + group.to(tl.int64) * H * W + base + x, found, mask=x < W)


@triton.jit
def _edge_bits(
    words: tl.tensor,
    labels: tl.tensor,
    n: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    ok: tl.tensor,
    H: tl.tensor,
    W: tl.tensor,
    ignored: tl.tensor,
    SIDE: tl.constexpr,
    TRANSPARENT: tl.constexpr,
) -> tl.tensor:
    """The sets of the windows around the pixels (y, x) of image n, empty where they hold one label."""
    found = tl.zeros(x.shape, tl.int32)
    for d in tl.static_range(SIDE):
        row = y + (d - SIDE // 2)
        inside = (ok & (row >= 0) & (row < H)) != 0  # Triton 3.9's interpreter makes this int32, which is no mask
        found |= tl.load(words + (n * H + row).to(tl.int64) * W + x, mask=inside, other=0)
    found = tl.where((found & (found - 1)) != 0, found, 0)
    if TRANSPARENT:
        label = tl.load(labels + (n * H + y).to(tl.int64) * W + x, mask=ok, other=0)
        found = tl.where(label == ignored, 0, found)
    return found


@triton.jit
def cells_kernel(
    words: tl.tensor,  # [groups, N, H, W] int32
    labels: tl.tensor,  # [N, H, W] integers
    out: tl.tensor,  # [N, K, h, w] float32, out: every element
    numbers: tl.tensor,  # [N, K] int32, out: the cells of each map that are not zero are added; or None
    N: tl.tensor,
    H: tl.tensor,
    W: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    classes: tl.tensor,
    ignored: tl.tensor,
    SIDE: tl.constexpr,
    TRANSPARENT: tl.constexpr,
    PIXELS: tl.constexpr,  # columns of the widest cell, a power of two
    ROWS: tl.constexpr,  # rows after which a byte could overflow
    BLOCK: tl.constexpr,
) -> None:
    """One program per row of cells, BLOCK of its cells and group; bins are adaptive average pooling's.

    Four counters share an integer: byte b of the k-th counts bit k + 8 b of the words.
    """
    n, i, group = tl.program_id(0) // h, tl.program_id(0) % h, tl.program_id(2)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    top, bottom = i * H // h, ((i + 1) * H + h - 1) // h
    left, right = j * W // w, ((j + 1) * W + w - 1) // w
    x = left[:, None] + tl.arange(0, PIXELS)[None, :]
    ok = (j < w)[:, None] & (x < right[:, None])
    k, byte = tl.arange(0, 8)[None, :, None], tl.arange(0, 4)[None, None, :]
    counts = tl.zeros([BLOCK, 8, 4], tl.int32)
    plane = words + group.to(tl.int64) * N * H * W
    for start in range(top, bottom, ROWS):
        packed = tl.zeros([BLOCK, PIXELS, 8], tl.int32)
        for y in range(start, tl.minimum(start + ROWS, bottom)):
            edge = _edge_bits(plane, labels, n, y, x, ok, H, W, ignored, SIDE, TRANSPARENT)
            packed += (edge[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 0x01010101
        if PIXELS * ROWS < 256:
            counts += (tl.sum(packed, 1)[:, :, None] >> (8 * byte)) & 255
        else:
            counts += tl.sum((packed[:, :, :, None] >> (8 * byte)[:, None, :, :]) & 255, 1)
    bit = k + 8 * byte
    c = group * GROUP + bit
    rows, columns = (bottom - top).to(tl.float32), (right - left).to(tl.float32)[:, None, None]
    # Exact integers, divided as adaptive average pooling divides, rounded to nearest each time.
    shares = tl.div_rn(tl.div_rn(counts.to(tl.float32), tl.zeros_like(columns) + rows), columns)
    at = ((n * classes + c).to(tl.int64) * h + i) * w + j[:, None, None]
    real = (bit < GROUP) & (c < classes)
    tl.store(out + at, shares, mask=(j < w)[:, None, None] & real)
    if numbers is not None:
        some = tl.sum((counts > 0).to(tl.int32), 0)[None, :, :]  # beyond w there is nothing to count
        tl.atomic_add(numbers + n * classes + c, some, mask=real & (some > 0))
