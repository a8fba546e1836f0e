"""Structured KD: the pair-wise term at the golden values, and the distiller's weights, switches and presets."""

from __future__ import annotations

import pytest
import torch

from bpkd.distillers import SKDS
from bpkd.distillers.skds import PRESETS
from bpkd.functional import gradient_norm, pairwise_affinity, pixel_kd
from bpkd.functional.relations import _patch_maxima
from bpkd.structures import SegOutput
from tests.conftest import TOLERANCE
from tests.helpers.distiller_inputs import feature_outputs, features
from tests.helpers.golden_distillers import entry, golden, gradient, names

OPTIONS = {
    "pairwise/skds_scale0.5": {},
    "pairwise/skds_scale0.25": {"pool_scale": 0.25},
    "pairwise/skds_scale0.0625": {"pool_scale": 0.0625},
    "pairwise/skds_scale0.5_odd17": {},
    "pairwise/cirkd_skd_pool2": {"pool_kernel": 2, "detach_norm": False},
    "pairwise/norm_not_detached_scale0.5": {"detach_norm": False},
}


@pytest.mark.parametrize("name", names("pairwise/"))
def test_loss_and_gradient_equal_the_golden_values(name: str) -> None:
    odd = "_odd" if "odd17" in name else ""
    student, teacher = golden("features", f"student{odd}").requires_grad_(), golden("features", f"teacher{odd}")
    value = pairwise_affinity(student, teacher, **OPTIONS[name])
    want = entry(name)
    # the file's own tolerance: differences of near-equal numbers
    assert float(value.detach()) == pytest.approx(want["loss"], rel=2e-5)
    assert gradient(value, student) == pytest.approx(want["grad_norm_student"], rel=2e-5)


@pytest.mark.parametrize("size", [(7, 5), (45, 45), (1, 1), (2, 3), (1, 40)])
@pytest.mark.parametrize("options", [{}, {"pool_scale": 0.1}, {"pool_kernel": 9, "detach_norm": False}])
def test_equals_a_plain_loop_at_any_size(size: tuple[int, int], options: dict) -> None:
    student, teacher = features(*size)
    value = pairwise_affinity(student, teacher, **options)
    kernel = options.get("pool_kernel") or None
    scale = options.get("pool_scale", 0.5)
    kh, kw = (kernel, kernel) if kernel else (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))
    total, count = 0.0, 0
    for n in range(2):
        unit = []
        for x in (student.detach(), teacher):
            patches = [
                x[n, :, i : i + kh, j : j + kw].amax((1, 2)).double()
                for i in range(0, size[0], kh)
                for j in range(0, size[1], kw)
            ]
            unit.append([p / (p.norm() + 1e-8) for p in patches])
        for i in range(len(unit[0])):
            for j in range(len(unit[0])):
                total += float(unit[1][i] @ unit[1][j] - unit[0][i] @ unit[0][j]) ** 2
                count += 1
    assert float(value.detach()) == pytest.approx(total / count, rel=1e-4, abs=1e-10)
    value.backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 19), (8, 40)])
def test_patches_without_gradient_have_the_same_maxima(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    for kernel in ((8, 8), (8, size[1] // 2), size):
        assert torch.equal(_patch_maxima(x, kernel), _patch_maxima(x.clone().requires_grad_(), kernel))


def test_detached_norm_changes_the_gradient_alone() -> None:
    student, teacher = features(8, 8)
    detached, whole = (pairwise_affinity(student, teacher, detach_norm=d) for d in (True, False))
    assert torch.equal(detached, whole)
    assert gradient(detached, student) > 1.5 * gradient(whole, student)


def test_invariants() -> None:
    student, teacher = features(9, 8)
    same = teacher.clone().requires_grad_()
    assert float(gradient_norm(pairwise_affinity(same, teacher), same)) == 0.0
    one = pairwise_affinity(student[:1], teacher[:1])
    twice = pairwise_affinity(student[:1].repeat(2, 1, 1, 1), teacher[:1].repeat(2, 1, 1, 1))
    assert float(one.detach()) == pytest.approx(float(twice.detach()), rel=1e-6)
    wide = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in features(8, 8)]  # same nodes at twice the size
    assert torch.allclose(pairwise_affinity(*wide), pairwise_affinity(*features(8, 8)))
    teacher.requires_grad_()
    pairwise_affinity(student, teacher).backward()
    assert teacher.grad is None
    dead = torch.zeros(1, 4, 8, 8, requires_grad=True)  # all units off: no direction, and no NaN
    pairwise_affinity(dead, dead.detach(), detach_norm=False).backward()
    assert dead.grad.isfinite().all()
    assert float(pairwise_affinity(student[:0], teacher[:0]).detach()) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs(dtype: torch.dtype) -> None:
    student, teacher = features(9, 8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = pairwise_affinity(student, teacher)
    assert value.dtype == torch.float32
    exact = pairwise_affinity(student.float(), teacher.float())  # the rounded inputs, evaluated in float32
    assert float(value.detach()) == pytest.approx(float(exact.detach()), rel=1e-6)
    whole = pairwise_affinity(*features(9, 8))
    assert float(value.detach()) == pytest.approx(float(whole.detach()), rel=5 * TOLERANCE[dtype])


def test_wrong_arguments_say_what_to_change() -> None:
    student, teacher = features(9, 8)
    with pytest.raises(ValueError, match="Match the sizes first"):
        pairwise_affinity(student, teacher[..., 1:])
    with pytest.raises(ValueError, match="pool_scale > 0"):
        pairwise_affinity(student, teacher, pool_scale=0.0)
    with pytest.raises(ValueError, match=r"preset .*: expected one of \['author_code', 'recommended'\]"):
        SKDS(preset="paper", num_classes=5)


# The distiller


def test_terms_are_the_functions_times_the_presets_weights() -> None:
    student, teacher, target = feature_outputs()
    for preset, weights in PRESETS.items():
        got = SKDS(preset=preset, num_classes=5)(student, teacher, target)
        assert list(got) == ["loss_kd_pixel", "loss_kd_pair", "loss_kd_adv", "loss_kd_critic"]
        pixel, pair = pixel_kd(student.logits, teacher.logits), pairwise_affinity(
            student.features["decode"], teacher.features["decode"])  # fmt: skip
        assert torch.equal(got["loss_kd_pixel"], weights["pixel_weight"] * pixel)
        assert torch.equal(got["loss_kd_pair"], weights["pair_weight"] * pair)


def test_authors_pixel_weight_is_converted() -> None:
    """10 times the authors' sum over a batch of 8 has the gradient of 80 times the mean."""
    student, teacher = golden("logits", "student").requires_grad_(), golden("logits", "teacher")
    want = entry("pixel/skds_ce_sum_over_hw")["grad_norm_student"]
    assert len(student) * gradient(pixel_kd(student, teacher), student) == pytest.approx(want, rel=1e-5)
    assert PRESETS["author_code"]["pixel_weight"] == 10 * 8


def test_a_term_of_weight_0_is_not_there_and_without_adversary_no_critic() -> None:
    student, teacher, target = feature_outputs()
    off = SKDS(adv_weight=0.0, num_classes=5)
    assert list(off(student, teacher, target)) == ["loss_kd_pixel", "loss_kd_pair"]
    assert not list(off.parameters())
    assert off.parameter_options() == {}
    off = SKDS(pixel_weight=0.0, pair_weight=0.0, num_classes=5)
    assert list(off(student, teacher, target)) == ["loss_kd_adv", "loss_kd_critic"]
    with pytest.raises(ValueError, match="all weights are 0"):
        SKDS(pixel_weight=0.0, pair_weight=0.0, adv_weight=0.0)(student, teacher, target)


def test_preset_chooses_the_critics_optimizer() -> None:
    adam = SKDS(num_classes=5).parameter_options()["adversary."]
    assert (adam["optimizer"], adam["lr"], adam["betas"]) == ("adam", 4e-4, (0.9, 0.99))
    sgd = SKDS(preset="author_code", num_classes=5).parameter_options()["adversary."]
    assert (sgd["optimizer"], sgd["momentum"], sgd["weight_decay"]) == ("sgd", 0.9, 5e-4)


def test_a_missing_tap_is_an_error() -> None:
    student, teacher, target = feature_outputs()
    with pytest.raises(KeyError, match="tap 'decode': the teacher gives only logits"):
        SKDS(adv_weight=0.0)(student, SegOutput(teacher.logits), target)


@pytest.mark.parametrize("size", [(45, 45), (7, 5), (1, 9)])
def test_under_autocast_every_term_is_finite_float32(size: tuple[int, int]) -> None:
    student, teacher, target = feature_outputs(size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = SKDS(num_classes=5)(student, teacher, torch.full_like(target, 255))
    assert all(v.dtype == torch.float32 and v.isfinite() for v in terms.values())
    sum(terms.values()).backward()
    assert student.logits.grad.isfinite().all()
    assert student.features["decode"].grad.isfinite().all()
