"""Triton kernels of the cross entropy at label size: the resized logits exist in registers alone.

entropy: per output pixel: log-sum-exp over the classes, and the loss
entropy_gradient: per source cell: the gradient, gathered from the output pixels that it touches

A band is the output rows whose upper source row is the same: both source rows are stretched to the output columns once,
each output row is a mix of the two. Where an output index lies on the source axis is found in float32, as torch does.
Exponents are to the base 2, which is what the GPU computes. No atomics: the same input gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOG_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _place(at: tl.tensor, scale: tl.tensor, ALIGNED: tl.constexpr) -> tl.tensor:
    """Output indices -> their places on the source axis."""
    return at * scale if ALIGNED else tl.maximum(tl.fma(at + 0.5, scale, -0.5), 0.0)


@triton.jit
def _first(cell: tl.tensor, scale: tl.tensor, cells: tl.tensor, size: tl.tensor, ALIGNED: tl.constexpr) -> tl.tensor:
    """The first output index, of ``size``, whose place is not before ``cell``; ``size`` where there is none.

    An estimate made exact: places never fall, so the indices around it that lie before the cell are counted.
    """
    estimate = cell / tl.maximum(scale, 1e-30) if ALIGNED else (cell + 0.5) / scale - 0.5
    start = tl.minimum(tl.maximum(estimate, 0.0), size).to(tl.int32) - 2
    at = start + tl.arange(0, 4)
    before = (at < 0) | ((_place(at, scale, ALIGNED) < cell) & (at < size))
    found = start + tl.sum(before.to(tl.int32), 0)
    return tl.where(cell <= 0, 0, tl.where(cell >= cells, size, found))


@triton.jit
def _share(at: tl.tensor, scale: tl.tensor, cell: tl.tensor, ALIGNED: tl.constexpr) -> tl.tensor:
    """How much of the cell after ``cell`` is in the output indices between both."""
    return tl.minimum(tl.maximum(_place(at, scale, ALIGNED) - cell, 0.0), 1.0)


@triton.jit
def _columns(x: tl.tensor, scale: tl.tensor, w: tl.tensor, ALIGNED: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Source columns left and right of the output columns, and how much of each is in them."""
    left = tl.minimum(_place(x, scale, ALIGNED).to(tl.int32), w - 1)
    share = _share(x, scale, left, ALIGNED)
    return left, tl.minimum(left + 1, w - 1), 1.0 - share, share


@triton.jit
def _stretched(
    row: tl.tensor, left: tl.tensor, right: tl.tensor, near: tl.tensor, far: tl.tensor, ok: tl.tensor
) -> tl.tensor:
    """Source rows, given as pointers to their beginnings, at the output columns, to the base 2."""
    a = tl.load(row + left, mask=ok, other=0.0).to(tl.float32)
    return a * (near * LOG2_E) + tl.load(row + right, mask=ok, other=0.0).to(tl.float32) * (far * LOG2_E)


@triton.jit
def _labels(target: tl.tensor, at: tl.tensor, ok: tl.tensor, ignored: tl.tensor) -> tuple[tl.tensor, ...]:
    """Labels, and which pixels count."""
    label = tl.load(target + at, mask=ok, other=0).to(tl.int64)
    return label.to(tl.int32), ok & (label != ignored)


@triton.jit
def _weights(weight: tl.tensor, label: tl.tensor, counts: tl.tensor, C: tl.tensor) -> tl.tensor:
    """The pixels' class weights, 0 where they do not count."""
    if weight is None:
        found = counts.to(tl.float32)
    else:
        found = tl.load(weight + label, mask=counts & (label >= 0) & (label < C), other=0.0)
    return found


@triton.jit
def _over(factor: tl.tensor, count: tl.tensor) -> tl.tensor:
    """The factor over a count that only the device knows, or None."""
    if count is not None:
        factor = factor / tl.load(count)
    return factor


@triton.jit
def _mixed(
    image: tl.tensor,  # pointers to planes of logits
    upper: tl.tensor,  # offsets of both source rows
    lower: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    near: tl.tensor,
    far: tl.tensor,
    down: tl.tensor,  # how much of the lower row is in the output row
    ok: tl.tensor,
) -> tl.tensor:
    """Logits at output pixels, to the base 2."""
    top = _stretched(image + upper, left, right, near, far, ok)
    return top + down * (_stretched(image + lower, left, right, near, far, ok) - top)


@triton.jit
def _band_losses(
    logits: tl.tensor,
    target: tl.tensor,
    weight: tl.tensor,
    log_sums: tl.tensor,
    n: tl.tensor,
    band: tl.tensor,
    y: tl.tensor,  # output rows [ROWS, 1] before ``last``, and columns [1, BLOCK]
    last: tl.tensor,
    x: tl.tensor,
    shape: tl.tuple,  # C, h, w, H, W
    scales: tl.tuple,  # of rows and columns
    ignored: tl.tensor,
    ALIGNED: tl.constexpr,
) -> tl.tensor:
    """Writes the log-sum-exps of a band's output pixels and returns their losses."""
    C, h, w, H, W = shape
    left, right, near, far = _columns(x, scales[1], w, ALIGNED)
    upper, lower = band * w, tl.minimum(band + 1, h - 1) * w
    down, inside = _share(y, scales[0], band, ALIGNED), (y < last) & (x < W)
    sums = (down + near) * 0.0
    largest = sums - float("inf")
    for c in range(C):
        v = _mixed(logits + (n * C + c) * h * w, upper, lower, left, right, near, far, down, x < W)
        e, more = tl.exp2(-tl.abs(v - largest)), v > largest  # one exponential: the larger one's is 1
        sums = tl.where(more, sums * e + 1.0, sums + e)
        largest = tl.where(more, v, largest)
    log_sum, at = tl.log2(sums), (n * H + y) * W + x
    if log_sums is not None:
        tl.store(log_sums + at, largest + log_sum, mask=inside)
    label, counts = _labels(target, at, inside, ignored)
    known = counts & (label >= 0) & (label < C)
    own = _mixed(logits + (n * C + label) * h * w, upper, lower, left, right, near, far, down, known)
    loss = _weights(weight, label, counts, C) * ((largest - own + log_sum) * LOG_2)
    return tl.where(counts, tl.where(known, loss, float("nan")), 0.0)  # a label out of range shows


@triton.jit
def entropy_kernel(
    logits: tl.tensor,  # [N, C, h, w]
    target: tl.tensor,  # [N, H, W] integers
    weight: tl.tensor,  # [C] float32, or None
    count: tl.tensor,  # scalar float32: a divisor of the loss, or None
    log_sums: tl.tensor,  # [N, H, W] float32, to the base 2, out, or None
    values: tl.tensor,  # [N, h, programs per band] float32, out
    C: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    H: tl.tensor,
    W: tl.tensor,
    row_scale: tl.tensor,  # source cells per output pixel
    column_scale: tl.tensor,
    ignored: tl.tensor,
    factor: tl.tensor,  # of the loss
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,  # output rows at a time
    BLOCK: tl.constexpr,
) -> None:
    """One program per image, band and BLOCK output columns."""
    n, band = tl.program_id(2).to(tl.int64), tl.program_id(1)
    shape, scales = (C, h, w, H, W), (row_scale, column_scale)
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    first, last = _first(band, row_scale, h, H, ALIGNED), _first(band + 1, row_scale, h, H, ALIGNED)
    losses = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(first, last, ROWS):
        y = start + tl.arange(0, ROWS)[:, None]
        losses += _band_losses(logits, target, weight, log_sums, n, band, y, last, x, shape, scales, ignored, ALIGNED)
    value = tl.sum(tl.sum(losses, 1), 0) * _over(factor, count)
    tl.store(values + (n * h + band) * tl.num_programs(0) + tl.program_id(0), value)


@triton.jit
def _band_gradient(
    upper: tl.tensor,  # [BLOCK, CLASSES], so far
    top: tl.tensor,  # both source rows stretched
    bottom: tl.tensor,
    at: tl.tensor,  # offsets of the output columns in the image's first row
    c: tl.tensor,
    inside: tl.tensor,
    target: tl.tensor,
    weight: tl.tensor,
    log_sums: tl.tensor,
    band: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    shape: tl.tuple,
    scale: tl.tensor,
    ignored: tl.tensor,
    ALIGNED: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Adds a band's gradient, softmax less the label, to its upper source row; returns it and the lower one's."""
    C, h, w, H, W = shape
    lower = tl.zeros_like(top)
    for y in range(first, last):
        label, counts = _labels(target, at + y * W, inside, ignored)
        own = _weights(weight, label, counts, C)
        log_sum = tl.load(log_sums + (at + y * W), mask=inside, other=float("inf"))
        down = tl.where(band < h - 1, _share(y, scale, band, ALIGNED), 0.0)  # the last row is below itself
        g = tl.exp2(top + down * (bottom - top) - log_sum) - (c == label).to(tl.float32)
        upper += g * (own * (1.0 - down))
        lower += g * (own * down)
    return upper, lower


@triton.jit
def _block_gradient(
    logits: tl.tensor,
    target: tl.tensor,
    weight: tl.tensor,
    log_sums: tl.tensor,
    n: tl.tensor,
    i: tl.tensor,  # first source row
    j: tl.tensor,  # source columns [PADDED, 1]
    c: tl.tensor,  # [1, CLASSES]
    x: tl.tensor,  # output columns [BLOCK] before ``end``
    end: tl.tensor,
    shape: tl.tuple,
    scales: tl.tuple,
    ignored: tl.tensor,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
) -> tl.tensor:
    """What a block of output columns gives to the source cells, [ROWS, PADDED, CLASSES]."""
    C, h, w, H, W = shape
    left, right, near, far = _columns(x[None, :], scales[1], w, ALIGNED)
    fold = tl.where(left == j, near, 0.0) + tl.where(right == j, far, 0.0)  # [PADDED, BLOCK]
    left, right, near, far = _columns(x[:, None], scales[1], w, ALIGNED)
    inside, at = (x < end)[:, None], n * H * W + x[:, None]
    ok, planes = inside & (c < C), logits + (n * C + c) * h * w
    start, rows = tl.maximum(i - 1, 0), tl.arange(0, ROWS)[:, None, None]
    bottom = _stretched(planes + start * w, left, right, near, far, ok)
    lower = bottom * 0.0
    found = (rows + (j + c)[None, :, :]) * 0.0
    for band in range(start, tl.minimum(i + ROWS, h)):
        # Each band's rows are found anew: Triton 3.6 does not carry an integer from one round to the next here.
        first, last = _first(band, scales[0], h, H, ALIGNED), _first(band + 1, scales[0], h, H, ALIGNED)
        top = bottom
        bottom = _stretched(planes + tl.minimum(band + 1, h - 1) * w, left, right, near, far, ok)
        upper, lower = _band_gradient(
            lower, top, bottom, at, c, inside, target, weight, log_sums,
            band, first, last, shape, scales[0], ignored, ALIGNED,
        )  # fmt: skip
        folded = tl.dot(fold, upper, input_precision="tf32x3")
        found += tl.where(rows == band - i, folded[None, :, :], 0.0)
    return found


@triton.jit
def entropy_gradient_kernel(
    logits: tl.tensor,  # [N, C, h, w]
    target: tl.tensor,  # [N, H, W] integers
    weight: tl.tensor,  # [C] float32, or None
    count: tl.tensor,  # scalar float32: a divisor of the loss, or None
    log_sums: tl.tensor,  # [N, H, W] float32, to the base 2
    upstream: tl.tensor,  # scalar that backward was given
    gradient: tl.tensor,  # [N, C, h, w] out
    C: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    H: tl.tensor,
    W: tl.tensor,
    row_scale: tl.tensor,  # source cells per output pixel
    column_scale: tl.tensor,
    ignored: tl.tensor,
    factor: tl.tensor,  # of the loss
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,  # source rows of a program; the band above them is worked on twice
    COLUMNS: tl.constexpr,  # source columns of a program
    PADDED: tl.constexpr,  # the same as a power of two, at least 16
    CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,  # output columns at a time
) -> None:
    """One program per image, CLASSES classes, ROWS x COLUMNS source cells."""
    shape, scales = (C, h, w, H, W), (row_scale, column_scale)
    n, place, tiles = tl.program_id(2).to(tl.int64), tl.program_id(0), (w + COLUMNS - 1) // COLUMNS
    i, j0 = place // tiles * ROWS, place % tiles * COLUMNS
    c, j = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)[None, :], j0 + tl.arange(0, PADDED)[:, None]
    begin, end = _first(j0 - 1, column_scale, w, W, ALIGNED), _first(j0 + COLUMNS, column_scale, w, W, ALIGNED)
    found = tl.zeros([ROWS, PADDED, CLASSES], tl.float32)
    for start in range(begin, end, BLOCK):
        x = start + tl.arange(0, BLOCK)
        found += _block_gradient(
            logits, target, weight, log_sums, n, i, j, c, x, end, shape, scales, ignored, ALIGNED, ROWS
        )
    row, c, j = i + tl.arange(0, ROWS)[:, None, None], c[None, :, :], j[None, :, :]
    out = gradient + (n * C + c) * h * w + row * w + j
    written = (row < h) & (c < C) & (j < tl.minimum(j0 + COLUMNS, w))
    tl.store(out, (found * _over(factor, count) * tl.load(upstream)).to(gradient.dtype.element_ty), mask=written)
