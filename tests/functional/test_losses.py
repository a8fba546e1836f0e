from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bpkd.functional import boundary_kd, channel_kd, class_edge_mask, gradient_norm, pixel_kd
from bpkd.functional.boundary_kd import NORMALIZERS
from bpkd.functional.reference.divergence import kl_divergence
from tests.conftest import TOLERANCE
from tests.helpers.oracle import literal_boundary_kd

GOLDEN = Path(__file__).parents[1] / "golden" / "distillers"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
TERMS = {"pixel": pixel_kd, "channel": channel_kd}


def golden_pair(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    data = np.load(GOLDEN / "logits.npz")
    student, teacher = (torch.from_numpy(data[k]) * scale for k in ("student", "teacher"))
    return student.requires_grad_(), teacher


def random_pair(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, scale: float = 3.0
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=g) * scale for _ in range(2))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def random_mask(shape: tuple[int, ...], kernel_size: int = 5) -> Tensor:
    n, k, h, w = shape
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(0, k, (n, h, w), generator=g).repeat_interleave(4, 1).repeat_interleave(4, 2)
    return class_edge_mask(labels, k, kernel_size, (h, w))


@pytest.mark.parametrize(
    ("entry", "loss", "temperature"),
    [
        ("pixel/cirkd_kl_pixelmean_T1", pixel_kd, 1),
        ("pixel/cirkd_kl_pixelmean_T4", pixel_kd, 4),
        ("cwd/mmrazor_T1_logits", channel_kd, 1),
        ("cwd/mmrazor_T4_logits", channel_kd, 4),
        ("cwd/torchdistiller_channel_kl_T4_logits", channel_kd, 4),
    ],
)
def test_loss_and_gradient_equal_the_peers(entry: str, loss, temperature: float) -> None:  # noqa: ANN001
    student, teacher = golden_pair()
    value = loss(student, teacher, temperature)
    expected = EXPECTED["entries"][entry]
    assert float(value) == pytest.approx(expected["loss"], rel=1e-5)
    assert float(gradient_norm(value, student)) == pytest.approx(expected["grad_norm_student"], rel=1e-5)


@pytest.mark.parametrize("temperature", [1, 4])
def test_pixel_kd_over_valid_pixels(temperature: int) -> None:
    student, teacher = golden_pair()
    labels = torch.from_numpy(np.load(GOLDEN / "labels.npz")["labels"])
    value = pixel_kd(student, teacher, temperature, valid=labels[:, ::4, ::4] != 255)
    expected = EXPECTED["derived"][f"pixel/kl_pixelmean_valid_only_T{temperature}"]
    assert float(value) == pytest.approx(expected["loss"], rel=1e-5)
    assert float(gradient_norm(value, student)) == pytest.approx(expected["grad_norm_student"], rel=1e-5)


def test_channel_kd_is_finite_where_probabilities_underflow() -> None:
    student, teacher = golden_pair(200.0)
    expected = EXPECTED["derived"]["cwd/extreme_logits_x200_T1"]["loss"]
    assert float(channel_kd(student, teacher)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shape", [(2, 19, 8, 9), (1, 2, 5, 5), (3, 150, 4, 4)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("vector", [False, True])
def test_boundary_kd_equals_the_formula(shape: tuple[int, ...], temperature: float, vector: bool) -> None:
    student, teacher = random_pair(shape, torch.float64)
    alpha = torch.linspace(0.5, 3, shape[1]) if vector else torch.tensor(2.0)
    mask = random_mask(shape)
    got = boundary_kd(student, teacher, mask, temperature=temperature, class_weight=alpha)
    want = literal_boundary_kd(student, teacher, mask.double(), temperature, alpha.double())
    for a, b in zip(got, want, strict=True):
        assert float(a) == pytest.approx(float(b), rel=TOLERANCE[torch.float32])
        assert float(gradient_norm(a, student)) == pytest.approx(float(gradient_norm(b, student)), rel=1e-5)


@pytest.mark.parametrize("pre_mask", ["soft", "hard", "none"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_student_equal_to_teacher_has_no_loss_and_no_gradient(pre_mask: str, normalizer: str) -> None:
    shape = (2, 7, 8, 8)
    teacher = random_pair(shape)[1]
    student = teacher.clone().requires_grad_()
    terms = boundary_kd(student, teacher, random_mask(shape), pre_mask=pre_mask, normalizer=normalizer)
    for value in (*terms, pixel_kd(student, teacher), channel_kd(student, teacher)):
        assert float(value) == pytest.approx(0.0, abs=1e-7)
        assert float(gradient_norm(value, student)) == pytest.approx(0.0, abs=1e-7)


def test_no_edge_leaves_plain_cwd() -> None:
    student, teacher = random_pair((2, 7, 8, 8))
    edge, body = boundary_kd(student, teacher, torch.zeros(2, 7, 8, 8))
    assert float(edge) == 0.0
    assert edge.requires_grad
    assert float(body) == float(channel_kd(student, teacher))


def test_classes_normaliser_is_a_mean_over_classes_with_an_edge() -> None:
    student, teacher = random_pair((1, 4, 6, 6))
    mask = torch.zeros(1, 4, 6, 6)
    mask[:, 1, :3] = 1.0
    cells, _ = boundary_kd(student, teacher, mask, class_weight=5.0)
    classes, _ = boundary_kd(student, teacher, mask, class_weight=5.0, normalizer="classes")
    assert float(cells) == pytest.approx(5 * float(classes), rel=1e-6)


def test_average_divides_by_all_positions_of_all_classes() -> None:
    student, teacher = random_pair((1, 4, 6, 6))
    mask = torch.zeros(1, 4, 6, 6)
    mask[:, 1, :3] = 1.0  # 18 positions
    cells, body = boundary_kd(student, teacher, mask)
    average, same = boundary_kd(student, teacher, mask, normalizer="average")
    assert float(cells) * 18 / (4 * 6 * 6) == pytest.approx(float(average), rel=1e-6)
    assert float(body) == float(same)


@pytest.mark.parametrize("pre_mask", ["soft", "hard", "none"])
def test_average_of_one_map_is_that_of_the_map_of_every_class(pre_mask: str) -> None:
    student, teacher = random_pair((2, 4, 6, 5))
    mask = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(4))
    one, every = (
        boundary_kd(student, teacher, m, normalizer="average", pre_mask=pre_mask)[0]
        for m in (mask, mask.expand(-1, 4, -1, -1))
    )
    assert float(one) > 0
    assert float(one) == pytest.approx(float(every), rel=1e-5)
    assert float(gradient_norm(one - every, student)) <= 1e-5 * float(gradient_norm(one, student))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs(dtype: torch.dtype) -> None:
    shape = (2, 7, 8, 8)
    student, teacher = random_pair(shape, dtype)
    exact_student, exact_teacher = random_pair(shape)
    mask = random_mask(shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = [*boundary_kd(student, teacher, mask), pixel_kd(student, teacher), channel_kd(student, teacher)]
    want = [
        *boundary_kd(exact_student, exact_teacher, mask),
        pixel_kd(exact_student, exact_teacher),
        channel_kd(exact_student, exact_teacher),
    ]
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        assert float(a) == pytest.approx(float(b), rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergences_written_out_gradient_is_autograds(dim: int, temperature: float) -> None:
    student, teacher = (x.flatten(2).detach() for x in random_pair((2, 5, 3, 4), torch.float64))
    student.requires_grad_()
    log_p, log_q = ((x / temperature).log_softmax(dim) for x in (teacher, student))
    literal = (log_p.exp() * (log_p - log_q)).sum(dim)
    got = kl_divergence(student, teacher, dim, temperature)
    assert torch.allclose(got, literal, rtol=1e-12)
    upstream = torch.linspace(-1, 2, got.numel(), dtype=torch.float64).view_as(got)
    gradients = [torch.autograd.grad(x, student, upstream)[0] for x in (got, literal)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)
    assert torch.autograd.gradgradcheck(lambda x: kl_divergence(x, teacher, dim, temperature), student)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_logits_stay_finite(scale: float) -> None:
    shape = (1, 2, 4, 4)
    student, teacher = random_pair(shape, scale=scale)
    mask = torch.ones(shape)
    for value in (*boundary_kd(student, teacher, mask), pixel_kd(student, teacher), channel_kd(student, teacher)):
        (gradient,) = torch.autograd.grad(value, student, retain_graph=True)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_batch_size_does_not_change_the_value() -> None:
    student, teacher = random_pair((1, 5, 6, 6))
    mask = random_mask((1, 5, 6, 6))
    twice = [torch.cat([x, x]) for x in (student, teacher, mask)]
    for one, two in zip(boundary_kd(student, teacher, mask), boundary_kd(*twice), strict=True):
        assert float(one) == pytest.approx(float(two), rel=1e-6)
    for loss in TERMS.values():
        assert float(loss(student, teacher)) == pytest.approx(float(loss(*twice[:2])), rel=1e-6)


def test_nothing_valid_is_a_zero_attached_to_the_graph() -> None:
    student, teacher = random_pair((2, 5, 6, 6))
    value = pixel_kd(student, teacher, valid=torch.zeros(2, 6, 6, dtype=torch.bool))
    value.backward()
    assert float(value) == 0.0
    assert student.grad is not None
    assert float(student.grad.abs().sum()) == 0.0


def test_gradients_agree_with_finite_differences() -> None:
    g = torch.Generator().manual_seed(3)
    student = torch.randn(1, 3, 3, 3, generator=g, dtype=torch.float32).requires_grad_()
    teacher = torch.randn(1, 3, 3, 3, generator=g)
    mask = torch.rand(1, 3, 3, 3, generator=g)
    total = sum(boundary_kd(student, teacher, mask))
    (gradient,) = torch.autograd.grad(total, student)
    step = torch.zeros_like(student)
    step[0, 1, 1, 2] = 1e-2
    with torch.no_grad():
        ahead, behind = (sum(boundary_kd(student + s, teacher, mask)) for s in (step, -step))
    assert float((ahead - behind) / 2e-2) == pytest.approx(float(gradient[0, 1, 1, 2]), rel=1e-2)


def test_teacher_gets_no_gradient() -> None:
    student, teacher = random_pair((1, 4, 5, 5))
    teacher.requires_grad_()
    sum(boundary_kd(student, teacher, random_mask((1, 4, 5, 5)))).backward()
    assert teacher.grad is None


def test_wrong_arguments_say_what_to_change() -> None:
    student, teacher = random_pair((1, 4, 5, 5))
    mask = torch.zeros(1, 4, 5, 5)
    with pytest.raises(ValueError, match="one shape"):
        pixel_kd(student, teacher[:, :3])
    with pytest.raises(ValueError, match="edge_mask: expected the logits' shape"):
        boundary_kd(student, teacher, mask[..., :4])
    with pytest.raises(ValueError, match="class_weight: expected one number or 4"):
        boundary_kd(student, teacher, mask, class_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match="normalizer"):
        boundary_kd(student, teacher, mask, normalizer="pixels")
    with pytest.raises(ValueError, match="pre_mask"):
        boundary_kd(student, teacher, mask, pre_mask="sharp")
