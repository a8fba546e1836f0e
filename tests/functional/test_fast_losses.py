"""The fast losses against the literal ones in double precision: values and gradients of each backend."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
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
from tests.helpers.loss_checks import (
    LABELS,
    check_average_by_hand,
    check_average_without_an_edge,
    check_cross_entropy,
    check_cross_entropy_of_ignored_pixels,
    check_plain_losses,
    check_two_classes_far_below_zero,
    check_weighted_terms,
    exact_boundary,
    labels_of,
    maps,
)

needs_extension = pytest.mark.skipif(native.level() is None, reason="the C++ library is not built")
BACKENDS = ["eager", pytest.param("cpp", marks=needs_extension)]
SHAPES = [(2, 19, 8, 9), (1, 2, 5, 7), (3, 150, 4, 4), (1, 5, 1, 1), (1, 3, 70, 90)]


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
