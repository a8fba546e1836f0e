"""Intra-class variation at the golden values, and the distiller's weights, switches and presets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bpkd.distillers import IFVD
from bpkd.functional import gradient_norm, intra_class_variation, nearest_labels, pixel_kd
from bpkd.structures import SegOutput
from tests.helpers.distiller_inputs import feature_outputs, features
from tests.helpers.golden_distillers import entry, golden, gradient, names


def labels(size: tuple[int, int], num_classes: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(1)
    target = torch.randint(0, num_classes, (2, *size), generator=g)
    target[:, 0] = 255
    return target


@pytest.mark.parametrize("name", [n for n in names("ifv/") if "all_ignored" not in n])
def test_loss_and_gradient_equal_the_golden_values(name: str) -> None:
    student, teacher = golden("features", "student").requires_grad_(), golden("features", "teacher")
    target = golden("labels", "labels").long()
    value = intra_class_variation(student, teacher, target, num_classes=19, valid_only="valid" in name)
    want = entry(name)
    # the file's own tolerance: differences of near-equal numbers
    assert float(value.detach()) == pytest.approx(want["loss"], rel=2e-5)
    assert gradient(value, student) == pytest.approx(want["grad_norm_student"], rel=2e-5)


@pytest.mark.parametrize("valid_only", [False, True])
def test_all_ignored_is_an_exact_zero_on_the_graph(valid_only: bool) -> None:
    student, teacher = golden("features", "student").requires_grad_(), golden("features", "teacher")
    target = torch.full((2, 128, 128), 255)
    value = intra_class_variation(student, teacher, target, num_classes=19, valid_only=valid_only)
    assert float(value.detach()) == 0.0
    assert float(value.detach()) == pytest.approx(entry("ifv/ifvd_all_ignored")["loss"], abs=1e-12)
    assert gradient(value, student) == 0.0


@pytest.mark.parametrize("size", [(7, 5), (45, 45), (1, 1)])
@pytest.mark.parametrize("valid_only", [False, True])
def test_equals_a_plain_loop_at_any_size(size: tuple[int, int], valid_only: bool) -> None:
    student, teacher = features(*size)
    target = labels((3 * size[0] + 1, 2 * size[1]))
    value = intra_class_variation(student, teacher, target, num_classes=5, valid_only=valid_only)
    small = nearest_labels(target, size)
    errors, valid = [], 0
    for n in range(2):
        for i in range(size[0]):
            for j in range(size[1]):
                label, cosines = int(small[n, i, j]), []
                assert label == int(target[n, i * target.shape[1] // size[0], j * target.shape[2] // size[1]])
                if label == 255:
                    errors.append(0.0)
                    continue
                valid += 1
                for x in (student.detach().double(), teacher.double()):
                    member = small[n] == label
                    centre = x[n][:, member].sum(1) / (int(member.sum()) + 1e-6)
                    cosines.append(float(torch.cosine_similarity(x[n, :, i, j], centre, dim=0, eps=1e-8)))
                errors.append((cosines[0] - cosines[1]) ** 2)
    want = sum(errors) / max(1, valid if valid_only else len(errors))
    assert float(value.detach()) == pytest.approx(want, rel=1e-4, abs=1e-10)
    value.backward()
    assert student.grad.isfinite().all()


def test_invariants() -> None:
    student, teacher = features(9, 8)
    target = labels((36, 32))
    same = teacher.clone().requires_grad_()
    assert float(gradient_norm(intra_class_variation(same, teacher, target, num_classes=5), same)) == 0.0
    value = intra_class_variation(student, teacher, target, num_classes=5)
    swapped = torch.where(target == 255, target, 4 - target)  # class permutation
    assert torch.allclose(value, intra_class_variation(student, teacher, swapped, num_classes=5))
    mirror = [student.flip(3), teacher.flip(3), nearest_labels(target, (9, 8)).flip(2)]
    assert torch.allclose(value, intra_class_variation(*mirror, num_classes=5))
    twice = [x.repeat(2, 1, 1, 1) for x in (student, teacher)]
    twice = intra_class_variation(*twice, target.repeat(2, 1, 1), num_classes=5)
    assert float(value.detach()) == pytest.approx(float(twice.detach()), rel=1e-6)
    large = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (student, teacher)]
    coarse = nearest_labels(target, (9, 8))  # any resolution
    assert torch.allclose(value, intra_class_variation(*large, coarse, num_classes=5), rtol=1e-4)
    teacher.requires_grad_()
    intra_class_variation(student, teacher, target, num_classes=5).backward()
    assert teacher.grad is None
    dead = torch.zeros(2, 4, 9, 8, requires_grad=True)
    intra_class_variation(dead, dead.detach(), target, num_classes=5).backward()
    assert dead.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs(dtype: torch.dtype) -> None:
    student, teacher = features(9, 8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = intra_class_variation(student, teacher, labels((36, 32)), num_classes=5)
    exact = intra_class_variation(student.float(), teacher.float(), labels((36, 32)), num_classes=5)
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(exact.detach()), rel=1e-6)


def test_a_label_out_of_range_is_refused() -> None:
    student, teacher = features(9, 8)
    with pytest.raises(ValueError, match=r"expected 0..3 or ignore_index 255, got \[4\]"):
        intra_class_variation(student, teacher, labels((9, 8)), num_classes=4)


# The distiller


@pytest.mark.parametrize(
    ("preset", "pixel", "ifv", "adv_loss"),
    [("recommended", 1.0, 50.0, "wgan-gp"), ("author_code", 10 / 5, 200.0, "wgan-gp"), ("cirkd", 1.0, 20.0, "hinge")],
)
def test_terms_are_the_functions_times_the_presets_weights(
    preset: str, pixel: float, ifv: float, adv_loss: str
) -> None:
    student, teacher, target = feature_outputs()
    distiller = IFVD(preset=preset, num_classes=5)
    got = distiller(student, teacher, target)
    assert list(got) == ["loss_kd_pixel", "loss_kd_ifv", "loss_kd_adv", "loss_kd_critic"]
    assert torch.equal(got["loss_kd_pixel"], pixel * pixel_kd(student.logits, teacher.logits))
    want = intra_class_variation(student.features["decode"], teacher.features["decode"], target, num_classes=5)
    assert torch.equal(got["loss_kd_ifv"], ifv * want)
    assert (distiller.adversary.adv_weight, distiller.adversary.adv_loss) == (0.001, adv_loss)


def test_authors_pixel_weight_is_converted() -> None:
    """10 times the authors' mean over elements is 10/K times the mean over pixels."""
    student, teacher = golden("logits", "student"), golden("logits", "teacher")
    want = entry("pixel/ifvd_kl_elementmean")["loss"]
    assert float(pixel_kd(student, teacher)) / 19 == pytest.approx(want, rel=1e-5)
    assert IFVD(preset="author_code", num_classes=19).pixel_weight == pytest.approx(10 / 19)
    assert IFVD(preset="author_code", pixel_weight=3.0, num_classes=19).pixel_weight == 3.0


def test_a_term_of_weight_0_is_not_there_and_without_adversary_no_critic() -> None:
    student, teacher, target = feature_outputs()
    off = IFVD(adv_weight=0.0, num_classes=5)
    assert list(off(student, teacher, target)) == ["loss_kd_pixel", "loss_kd_ifv"]
    assert not list(off.parameters())
    assert off.parameter_options() == {}
    off = IFVD(pixel_weight=0.0, ifv_weight=0.0, num_classes=5)
    assert list(off(student, teacher, target)) == ["loss_kd_adv", "loss_kd_critic"]


def test_other_sizes_and_channels_need_no_aligner() -> None:
    student, _, target = feature_outputs((7, 5))
    _, teacher, _ = feature_outputs((14, 10))
    distiller = IFVD(adv_weight=0.0, num_classes=5)
    value = distiller(student, SegOutput(teacher.logits, None, teacher.features), target)["loss_kd_ifv"]
    assert gradient(value, student.features["decode"]) > 0


@pytest.mark.parametrize("size", [(45, 45), (7, 5)])
def test_under_autocast_every_term_is_finite_float32(size: tuple[int, int]) -> None:
    student, teacher, target = feature_outputs(size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = IFVD(num_classes=5)(student, teacher, target)
    assert all(v.dtype == torch.float32 and v.isfinite() for v in terms.values())
    sum(terms.values()).backward()
    assert student.logits.grad.isfinite().all()
