"""The fast losses against the literal ones in double precision: values and gradients of each backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd.functional import (
    SparseEdgeMask,
    boundary_kd,
    channel_kd,
    class_edge_mask,
    class_edges,
    gradient_norm,
    pixel_kd,
    upsampled_cross_entropy,
    use_backend,
)
from bpkd.functional.backends import native
from tests.conftest import TOLERANCE

needs_extension = pytest.mark.skipif(native.level() is None, reason="the C++ library is not built")
BACKENDS = ["eager", pytest.param("cpp", marks=needs_extension)]
SHAPES = [(2, 19, 8, 9), (1, 2, 5, 7), (3, 150, 4, 4), (1, 5, 1, 1), (1, 3, 70, 90)]
LABELS = ["scene", "all edge", "no edge", "all ignored"]


def maps(shape: tuple[int, ...], scale: float = 3.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(shape[1])
    teacher = torch.randn(shape, generator=g) * scale
    return teacher + torch.randn(shape, generator=g) * scale / 2, teacher


def labels_of(kind: str, shape: tuple[int, ...]) -> Tensor:
    n, k, h, w = shape
    g = torch.Generator().manual_seed(1)
    if kind == "scene":
        small = torch.randint(0, k, (n, h // 2 + 1, w // 2 + 1), generator=g)
        labels = small.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, : 4 * h, : 4 * w].clone()
        labels[:, :3, : w // 2] = 255
        return labels
    if kind == "all edge":
        return torch.randint(0, k, (n, 4 * h, 4 * w), generator=g)
    return torch.full((n, 4 * h, 4 * w), 255 if kind == "all ignored" else k - 1)


def exact_divergence(student: Tensor, teacher: Tensor, dim: int, temperature: float) -> Tensor:
    p, q = (F.log_softmax(x / temperature, dim) for x in (teacher, student))
    return temperature**2 * (p.exp() * (p - q)).sum(dim)


def exact_boundary(student: Tensor, teacher: Tensor, mask: Tensor, o: dict) -> tuple[Tensor, Tensor]:
    """Both terms as the formula is written; give it float64."""
    filters = {"soft": (mask, 1 - mask), "hard": ((mask > 0).double(), (mask == 0).double()), "none": (1.0, 1.0)}
    on_edge, on_body = filters[o["pre_mask"]]
    kl = exact_divergence(student * on_edge, teacher * on_edge, 1, o["temperature"])
    cells, alpha = (mask > 0).sum((2, 3)), o["class_weight"].double()
    body = exact_divergence((student * on_body).flatten(2), (teacher * on_body).flatten(2), 2, o["temperature"])
    if o["normalizer"] == "average":
        return (alpha[:, None, None] * kl[:, None] * mask).mean(), body.mean()
    edge = (alpha / cells.clamp(min=1) * (kl[:, None] * mask).sum((2, 3))).sum(1)
    if o["normalizer"] == "classes":
        share = (alpha * (cells > 0)).sum(1)
        edge = edge / torch.where(share > 0, share, 1.0)
    return edge.mean(), body.mean()


def check(
    fast: Callable[[Tensor], Tensor],
    exact: Callable[[Tensor], Tensor],
    student: Tensor,
    scale: float = 1.0,
    rel: float = 1e-5,
) -> None:
    """Value and gradient to the table's float32 tolerance; both may be zero.

    A probability carries an absolute error near 1e-7, so a small loss of ``scale`` times the divergence is compared
    absolutely.
    """
    x, y = student.clone().requires_grad_(), student.double().requires_grad_()
    value, want = fast(x), exact(y)
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(want.detach()), rel=rel, abs=3e-6 * scale)
    (got,), (gradient,) = torch.autograd.grad(value, x), torch.autograd.grad(want, y)
    assert got.shape == student.shape
    apart = float((got.double() - gradient).norm())
    assert apart <= TOLERANCE[torch.float32] * float(gradient.norm()) + 1e-7 * scale


def check_plain_losses(shape: tuple[int, ...], temperature: float) -> None:
    student, teacher = maps(shape)
    t = teacher.double()
    valid = torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(0)) < 0.5
    check(
        lambda x: channel_kd(x, teacher, temperature),
        lambda x: exact_divergence(x.flatten(2), t.flatten(2), 2, temperature).mean(),
        student,
    )
    check(
        lambda x: pixel_kd(x, teacher, temperature),
        lambda x: exact_divergence(x, t, 1, temperature).mean(),
        student,
    )
    check(
        lambda x: pixel_kd(x, teacher, temperature, valid=valid),
        lambda x: (exact_divergence(x, t, 1, temperature) * valid).sum() / valid.sum().clamp(min=1),
        student,
    )


def check_weighted_terms(
    pair: tuple[Tensor, Tensor],
    mask: Tensor,
    weights: tuple[float, float],
    options: dict[str, Any],
    *,
    form: Any = None,
    rel: float = 1e-5,
) -> None:
    """BPKD weighted inside, where the gradient of the forward pass is right as it is, and outside.

    ``form`` is the mask as the weighted call takes it; None: the map.
    """
    (student, teacher), (edge, body) = pair, weights
    given = mask if form is None else form
    # The divergence enters the average with the mask's mean as factor.
    scale = edge * (float(mask.mean()) if options["normalizer"] == "average" else 1) + body

    def exact(x: Tensor) -> Tensor:
        terms = exact_boundary(x, teacher.double(), mask.double(), options)
        return edge * terms[0] + body * terms[1]

    def outside(x: Tensor) -> Tensor:
        terms = boundary_kd(x, teacher, mask, **options)
        return edge * terms[0] + body * terms[1]

    check(lambda x: sum(boundary_kd(x, teacher, given, **options, weights=weights)), exact, student, scale, rel)
    check(outside, exact, student, scale, rel)


def check_average_by_hand() -> None:
    """Two images, two classes, two positions: masked logits (ln 3, 0) against (0, 0) at one position, 0 elsewhere."""
    teacher, student, mask = torch.zeros(2, 2, 1, 2), torch.zeros(2, 2, 1, 2), torch.zeros(2, 2, 1, 2)
    teacher[0, 0, 0, 0] = 2 * math.log(3)
    mask[0, :, 0, 0] = torch.tensor([0.5, 1.0])
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    options: dict[str, Any] = {"class_weight": [2.0, 4.0], "normalizer": "average"}
    edge, body = boundary_kd(student, teacher, mask, **options, weights=(50.0, 20.0))
    assert float(edge) == pytest.approx(50 * (2 * 0.5 + 4 * 1.0) * kl / (2 * 2 * 2), rel=1e-6)
    assert float(body) == pytest.approx(20 * kl / (2 * 2), rel=1e-6)  # of the first class, whose filter is 1 - 0.5


def check_average_without_an_edge(pre_mask: str) -> None:
    """An exact zero, without a gradient; the body term is CWD then."""
    student, teacher = maps((2, 5, 4, 3))
    leaf = student.requires_grad_()
    options: dict[str, Any] = {"normalizer": "average", "pre_mask": pre_mask, "weights": (50.0, 20.0)}
    edge, body = boundary_kd(leaf, teacher, torch.zeros(2, 5, 4, 3), **options)
    assert float(edge.detach()) == 0
    assert not torch.autograd.grad(edge, leaf, retain_graph=True)[0].any()
    assert float(body.detach()) == pytest.approx(20 * float(channel_kd(student.detach(), teacher)), rel=1e-6)


def check_two_classes_far_below_zero(shape: tuple[int, ...]) -> None:
    """All classes have an edge: there is no zero class that the softmax could be shifted by."""
    student, teacher = (x - 300 for x in maps(shape))
    mask = torch.ones(shape)
    options = {"temperature": 1.0, "class_weight": torch.ones(2), "normalizer": "positions", "pre_mask": "soft"}
    check(
        lambda x: boundary_kd(x, teacher, mask, **options)[0],
        lambda x: exact_boundary(x, teacher.double(), mask.double(), options)[0],
        student,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_channel_and_pixel_loss(backend: str, shape: tuple[int, ...], temperature: float) -> None:
    with use_backend(backend):
        check_plain_losses(shape, temperature)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pre_mask", ["soft", "hard", "none"])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_boundary_loss(backend: str, pre_mask: str, kind: str, shape: tuple[int, ...]) -> None:
    student, teacher = maps(shape)
    labels, size = labels_of(kind, shape), (shape[2], shape[3])
    mask = class_edge_mask(labels, shape[1], 7, size)
    alpha = torch.linspace(0.5, 3, shape[1])
    rel = 1e-4 if backend == "eager" else 1e-5  # sums of many equal numbers, as a hard mask makes them, round one way
    for temperature, normalizer in ((1.0, "positions"), (2.5, "classes"), (1.5, "average")):
        options = {"temperature": temperature, "class_weight": alpha, "normalizer": normalizer, "pre_mask": pre_mask}
        for weights in ((50.0, 20.0), (1.0, 0.0), (0.0, 1.0)):
            with use_backend(backend):
                form = class_edges(labels, shape[1], 7, size)
                check_weighted_terms((student, teacher), mask, weights, options, form=form, rel=rel)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pre_mask", ["soft", "hard", "none"])
def test_average_without_an_edge(backend: str, pre_mask: str) -> None:
    with use_backend(backend):
        check_average_without_an_edge(pre_mask)


@pytest.mark.parametrize("backend", BACKENDS)
def test_average_by_hand(backend: str) -> None:
    with use_backend(backend):
        check_average_by_hand()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_classes_far_below_zero(backend: str) -> None:
    with use_backend(backend):
        check_two_classes_far_below_zero((1, 2, 4, 4))


@pytest.mark.parametrize("scale", [60.0, 1e4])
def test_large_logits_are_no_worse_than_eager(scale: float) -> None:
    shape = (2, 19, 16, 16)
    student, teacher = maps(shape, scale)
    mask = class_edge_mask(labels_of("scene", shape), 19, 7, (16, 16))
    options = {
        "temperature": 0.5,
        "class_weight": torch.full((19,), 2.0),
        "normalizer": "positions",
        "pre_mask": "soft",
    }
    want = sum(exact_boundary(student.double(), teacher.double(), mask.double(), options))
    error = {}
    for backend in ("eager", "cpp"):
        with use_backend(backend):
            error[backend] = abs(float(sum(boundary_kd(student, teacher, mask, **options))) / float(want) - 1)
    assert error["cpp"] <= max(error["eager"], 1e-6)


def losses(student: Tensor, teacher: Tensor, mask: Tensor, labels: Tensor) -> list[Tensor]:
    edge, body = boundary_kd(student, teacher, mask)
    return [
        edge,
        body,
        channel_kd(student, teacher),
        pixel_kd(student, teacher),
        upsampled_cross_entropy(student, labels),
        *boundary_kd(student, teacher, mask, normalizer="average", weights=(50.0, 20.0)),
    ]


@needs_extension
@pytest.mark.parametrize("layout", ["channels last", "strided", "transposed", "bf16", "fp16"])
def test_any_layout_and_type(layout: str) -> None:
    shape = (2, 7, 12, 9)
    student, teacher = maps(shape, 1.0)
    labels = labels_of("scene", shape)
    mask = class_edge_mask(labels, 7, 7, (12, 9))
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
        "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        "bf16": lambda x: x.bfloat16(),
        "fp16": lambda x: x.half(),
    }
    given = [change[layout](x) for x in (student, teacher)]
    exact = [x.float().contiguous() for x in given]
    results = {}
    for backend, pair in (("eager", exact), ("cpp", given)):
        leaf = pair[0].detach().requires_grad_()
        with use_backend(backend):
            values = losses(leaf, pair[1], mask, labels)
        results[backend] = values, [torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in values]
    tolerance = 1e-5 if given[0].dtype == torch.float32 else 1e-2  # the gradient is rounded to the input's type
    for a, b in zip(results["eager"][0], results["cpp"][0], strict=True):
        assert float(b.detach()) == pytest.approx(float(a.detach()), rel=1e-5)
    for a, b in zip(results["eager"][1], results["cpp"][1], strict=True):
        assert b.dtype == given[0].dtype
        assert float((a - b.float()).norm()) <= tolerance * float(a.norm())


@needs_extension
def test_upstream_factor_and_double_use_in_one_graph() -> None:
    shape = (2, 6, 8, 8)
    student, teacher = maps(shape)
    labels = labels_of("scene", shape)
    mask = class_edge_mask(labels, 6, 7, (8, 8))
    gradients = {}
    for backend in ("eager", "cpp"):
        x = student.clone().requires_grad_()
        with use_backend(backend):
            values = losses(x, teacher, mask, labels)
            total = sum((i + 1) * v for i, v in enumerate(values)) + values[2] ** 2 + 3 * channel_kd(x, teacher)
        total.backward(retain_graph=True)
        once = x.grad.clone()
        (128 * total).backward()  # the saved gradient is not used up or changed by the first call
        assert torch.allclose(x.grad, 129 * once, rtol=1e-5, atol=1e-6)
        gradients[backend] = once
    assert float((gradients["cpp"] - gradients["eager"]).norm()) <= 1e-5 * float(gradients["eager"].norm())


@needs_extension
def test_no_gradient_is_made_where_none_is_asked_for_and_none_goes_to_the_teacher() -> None:
    shape = (1, 4, 5, 5)
    student, teacher = maps(shape)
    labels = labels_of("scene", shape)
    mask = class_edge_mask(labels, 4, 7, (5, 5))
    for value in losses(student, teacher, mask, labels):
        assert not value.requires_grad
    leaf = student.clone().requires_grad_()
    other = teacher.clone().requires_grad_()
    sum(losses(leaf, other, mask, labels)).backward()
    assert other.grad is None
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(torch.autograd.grad(channel_kd(leaf, teacher), leaf, create_graph=True)[0].sum(), leaf)


@needs_extension
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_shows_in_the_loss(bad: float) -> None:
    shape = (1, 4, 16, 16)
    student, teacher = maps(shape)
    student[0, 1, 3, 3] = bad
    labels = labels_of("all edge", shape)
    mask = class_edge_mask(labels, 4, 7, (16, 16))
    for value in losses(student, teacher, mask, labels):
        assert not torch.isfinite(value)


@needs_extension
def test_threads_change_no_bit_of_the_losses() -> None:
    shape = (3, 19, 24, 24)
    student, teacher = maps(shape)
    labels = labels_of("scene", shape)
    mask = class_edge_mask(labels, 19, 7, (24, 24))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            leaf = student.clone().requires_grad_()
            values = losses(leaf, teacher, mask, labels)
            results.append([*map(float, torch.stack(values).detach()), *torch.autograd.grad(sum(values[:4]), leaf)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert other[:-1] == results[0][:-1]
        assert torch.equal(other[-1], results[0][-1])


@needs_extension
def test_calls_at_the_same_time_change_no_bit_of_each_other() -> None:
    """As two models in one process, or two streams, make them: the extension keeps buffers per thread."""
    cases = []
    for classes, side in ((19, 40), (150, 24), (3, 64), (19, 24)):
        shape = (2, classes, side, side)
        labels = labels_of("scene", shape)
        cases.append((*maps(shape), class_edge_mask(labels, classes, 7, (side, side)), labels))

    def results(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[Tensor]:
        leaf = case[0].clone().requires_grad_()
        values = losses(leaf, *case[1:])
        return [torch.stack(values).detach(), torch.autograd.grad(sum(values), leaf)[0]]

    want = [results(case) for case in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        for found in (list(pool.map(results, cases)) for _ in range(5)):
            for a, b in zip(found, want, strict=True):
                assert torch.equal(a[0], b[0])
                assert torch.equal(a[1], b[1])


CE_CASES = [
    ((2, 5, 8, 9), (64, 72)),
    ((1, 19, 7, 5), (50, 33)),  # no whole factor
    ((1, 3, 9, 9), (9, 9)),  # no resize
    ((2, 4, 16, 12), (5, 7)),  # smaller
    ((1, 2, 1, 1), (6, 4)),
    ((1, 150, 4, 17), (32, 136)),
    ((5, 3, 6, 6), (1, 700)),
]


def check_cross_entropy(case: tuple, align_corners: bool, denominator: str, *, weighted: bool) -> None:
    shape, size = case
    logits, _ = maps(shape)
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, shape[1], (shape[0], *size), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.1] = 255
    weight = torch.linspace(0.5, 2, shape[1]) if weighted else None

    def exact(x: Tensor) -> Tensor:
        big = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
        double = None if weight is None else weight.double()
        if denominator == "valid":
            return F.cross_entropy(big, labels, double, ignore_index=255)
        return F.cross_entropy(big, labels, double, ignore_index=255, reduction="sum") / labels.numel()

    options = {"class_weight": weight, "denominator": denominator, "align_corners": align_corners}
    check(lambda x: upsampled_cross_entropy(x, labels, **options), exact, logits, rel=1e-6)


def check_cross_entropy_of_ignored_pixels(shape: tuple[int, ...]) -> None:
    logits = maps(shape)[0].requires_grad_()
    labels = torch.full((shape[0], 4 * shape[2], 4 * shape[3]), 255)
    for denominator in ("all", "valid"):
        loss = upsampled_cross_entropy(logits, labels, denominator=denominator)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert float(loss.detach()) == 0
        assert not gradient.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("denominator", ["all", "valid"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CE_CASES)
def test_upsampled_cross_entropy(
    backend: str, align_corners: bool, denominator: str, weighted: bool, case: tuple
) -> None:
    with use_backend(backend):
        check_cross_entropy(case, align_corners, denominator, weighted=weighted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cross_entropy_of_ignored_pixels_alone(backend: str) -> None:
    with use_backend(backend):
        check_cross_entropy_of_ignored_pixels((2, 5, 4, 4))


def test_wrong_arguments_of_the_cross_entropy() -> None:
    logits, labels = torch.zeros(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="LOSS_DENOMINATOR"):
        upsampled_cross_entropy(logits, labels, denominator="some")
    with pytest.raises(ValueError, match=r"labels \[N, H, W\]"):
        upsampled_cross_entropy(logits, labels[0])
    with pytest.raises(ValueError, match="class_weight"):
        upsampled_cross_entropy(logits, labels, class_weight=torch.ones(2))


@needs_extension
@pytest.mark.parametrize("wrong", [3, 99, 10**6, -1, -(10**6)])
def test_a_label_out_of_range_is_an_error_and_writes_nowhere(wrong: int) -> None:
    logits, labels = torch.zeros(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 32, 32, dtype=torch.long)
    labels[0, 9, 9] = wrong
    with use_backend("cpp"), pytest.raises(ValueError, match=r"labels: expected 0..2 or ignore_index 255, got \["):
        upsampled_cross_entropy(logits, labels)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_image_is_an_exact_zero(backend: str) -> None:
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    with use_backend(backend):
        loss = upsampled_cross_entropy(logits, torch.zeros(0, 8, 8, dtype=torch.long))
    assert float(loss.detach()) == 0
    loss.backward()


def test_wrong_sizes_and_temperatures() -> None:
    labels, maps_ = torch.zeros(1, 8, 8, dtype=torch.long), torch.zeros(1, 3, 4, 4)
    for size in (4, (0, 4), (4, 4, 4)):
        with pytest.raises(ValueError, match=r"size: expected \(h, w\)"):
            class_edge_mask(labels, 3, 7, size)
    for call in (channel_kd, pixel_kd):
        with pytest.raises(ValueError, match="temperature: expected above 0, got 0"):
            call(maps_, maps_, 0.0)
    with pytest.raises(ValueError, match="temperature"):
        boundary_kd(maps_, maps_, maps_, temperature=-1.0)
    assert repr(SparseEdgeMask.of(maps_)) == "SparseEdgeMask(shape=(1, 3, 4, 4), 0 non-zero positions)"


@needs_extension
def test_gradient_norms_of_single_terms() -> None:
    shape = (2, 6, 8, 8)
    student, teacher = maps(shape)
    mask = class_edge_mask(labels_of("scene", shape), 6, 7, (8, 8))
    norms = {}
    for backend in ("eager", "cpp"):
        leaf = student.clone().requires_grad_()
        with use_backend(backend):
            terms = boundary_kd(leaf, teacher, mask, weights=(50.0, 20.0))
            norms[backend] = [float(gradient_norm(t, leaf)) for t in (*terms, sum(terms))]
    assert norms["cpp"] == pytest.approx(norms["eager"], rel=1e-5)
