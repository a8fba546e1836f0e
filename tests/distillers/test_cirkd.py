from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd.distillers import CIRKD
from bpkd.functional import anchor_kd, cross_image, cross_image_kd, cross_image_pairs, gradient_norm, nearest_labels
from bpkd.functional.cross_image import pool_nodes
from bpkd.structures import SegOutput
from tests.helpers.distiller_inputs import CHANNELS, SMALL_CIRKD, cirkd_outputs

GOLDEN = Path(__file__).parents[1] / "golden" / "distillers"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def arrays(name: str) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.npz").items()}


def feature_pair(n: int = 2, size: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor]:
    student, teacher, _ = cirkd_outputs(n, size)
    return student.features["decode"], teacher.features["decode"]


# Golden numbers


@pytest.mark.parametrize(("tau", "tolerance"), [(0.1, 1e-5), (1.0, 2e-5)])
def test_mini_batch_equals_the_peer(tau: float, tolerance: float) -> None:
    features = arrays("features")
    student = features["student"].requires_grad_()
    value = cross_image_kd(student, features["teacher"], tau)
    want = EXPECTED["entries"][f"cirkd/minibatch_tau{tau}"]
    assert float(value.detach()) == pytest.approx(want["loss"], rel=tolerance)
    assert float(gradient_norm(value, student)) == pytest.approx(want["grad_norm_student"], rel=tolerance)


def golden_memory(monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> CIRKD:
    monkeypatch.setattr("bpkd.distillers.memory_bank.permutation", lambda n, generator: torch.arange(n))
    # 133 // 19 + 1 = 8 and 57 // 19 + 1 = 4 anchors of each class
    distiller = CIRKD(
        **{"kd_weight": 0.0, "mini_batch_weight": 0.0, "pixel_weight": 1.0, "region_weight": 1.0, **kwargs},
        pixel_queue=40, region_queue=20, pixel_anchors=133, region_anchors=57, num_classes=19,
        student_channels={"decode": 64}, teacher_channels={"decode": 128},
    )  # fmt: skip
    state, own = arrays("cirkd_state"), distiller.state_dict()
    for name, key in {
        "head.conv1.weight": "head_conv1_weight", "head.norm.weight": "head_bn_weight",
        "head.norm.bias": "head_bn_bias", "head.conv2.weight": "head_conv2_weight",
        "bank.pixel.rows": "pixel_queue", "bank.region.rows": "region_queue",
    }.items():  # fmt: skip
        own[name].copy_(state[key])
    return distiller


def checksum(rows: Tensor) -> float:
    flat = rows.double().flatten()
    return float((flat * torch.arange(1, len(flat) + 1) / len(flat)).sum())


@pytest.mark.parametrize(
    ("group", "entry", "kwargs"),
    [
        ("entries", "cirkd/memory_identity_perm", {"legacy_enqueue": True}),
        ("entries", "cirkd/memory_identity_perm_kdT2", {"legacy_enqueue": True, "memory_temperature": 2.0}),
        ("derived", "cirkd/memory_fixed_identity_perm", {}),
    ],
)
def test_memory_equals_the_golden_steps(
    group: str, entry: str, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    distiller = golden_memory(monkeypatch, **kwargs)
    features, labels = arrays("features"), arrays("labels")["labels"].long()
    logits = torch.zeros(2, 19, 16, 16)
    for step, want in enumerate(EXPECTED[group][entry]["steps"]):
        student = features["student"].clone().requires_grad_()
        terms = distiller(
            SegOutput(logits, None, {"decode": student}),
            SegOutput(logits, None, {"decode": features["teacher"]}),
            labels,
            step,
        )
        assert list(terms) == ["loss_kd_memory_pixel", "loss_kd_memory_region"]
        for name in ("pixel", "region"):
            value = terms[f"loss_kd_memory_{name}"]
            assert float(value.detach()) == pytest.approx(want[f"{name}_loss"], rel=1e-5)
            got = float(gradient_norm(value, student))
            assert got == pytest.approx(want[f"grad_norm_student_{name}"], rel=1e-5)
            queue = getattr(distiller.bank, name)
            assert queue.pointer.tolist() == want[f"{name}_ptr"]
            assert checksum(queue.rows) == pytest.approx(want[f"{name}_queue_weighted_sum"], rel=1e-6)
        if "head_grad_norms_of_sum" in want:
            distiller.zero_grad()
            sum(terms.values()).backward()
            head = distiller.head
            parameters = {
                "conv1": head.conv1.weight, "bn_w": head.norm.weight, "bn_b": head.norm.bias, "conv2": head.conv2.weight
            }  # fmt: skip
            for key, parameter in parameters.items():
                assert float(parameter.grad.norm()) == pytest.approx(want["head_grad_norms_of_sum"][key], rel=1e-5), key


def test_all_ignored_is_an_exact_zero_and_leaves_the_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    distiller = golden_memory(monkeypatch)
    features = arrays("features")
    student = features["student"].requires_grad_()
    logits = torch.zeros(2, 19, 16, 16)
    before = {k: v.clone() for k, v in distiller.bank.state_dict().items()}
    terms = distiller(
        SegOutput(logits, None, {"decode": student}),
        SegOutput(logits, None, {"decode": features["teacher"]}),
        torch.full((2, 128, 128), 255),
    )
    want = EXPECTED["derived"]["cirkd/memory_all_ignored"]
    assert float(terms["loss_kd_memory_pixel"].detach()) == want["pixel_loss"] == 0.0
    assert float(terms["loss_kd_memory_region"].detach()) == want["region_loss"] == 0.0
    sum(terms.values()).backward()
    for tensor in (student, *distiller.head.parameters()):
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))
    assert all(torch.equal(v, before[k]) for k, v in distiller.bank.state_dict().items())


# The functions


def literal_cross_image(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """All pairs at once in float64."""
    rows = [F.normalize(x.double(), dim=1).flatten(2) for x in (student, teacher)]
    p, q = (F.log_softmax(torch.einsum("ida,jdb->ijab", x, x) / tau, 3) for x in (rows[1], rows[0]))
    return (p.exp() * (p - q)).sum(3).mean()


@pytest.mark.parametrize("size", [(7, 5), (1, 9), (4, 4)])
def test_mini_batch_equals_the_formula(size: tuple[int, int]) -> None:
    student, teacher = feature_pair(3, size)
    got, want = cross_image_kd(student, teacher), literal_cross_image(student, teacher, 0.1)
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    gradients = [torch.autograd.grad(x, student)[0] for x in (got, want)]
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("most", [1, 60 * 35**2])  # one pair at a time, all at once
@pytest.mark.parametrize("far", [0, 2])
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.03])
def test_what_a_gpu_computes_equals_pair_by_pair(
    most: int, far: int, tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_image_pairs, "ENTRIES_AT_ONCE", most)
    g = torch.Generator().manual_seed(0)
    shapes = ((3, 6), (3, 10), (far, 6), (far, 10))
    maps = [F.normalize(torch.randn(n, d, 7, 5, generator=g), dim=1).flatten(2).transpose(1, 2) for n, d in shapes]
    value, slope = cross_image_pairs.pairs_at_once(*maps, tau)
    want, want_slope = cross_image._pair_by_pair(*(x.double() for x in maps), tau)
    assert float(value) == pytest.approx(float(want), rel=1e-6)
    assert float((slope - want_slope).norm() / want_slope.norm()) < 1e-6


def test_sharpest_similarities_of_a_gpu_stay_finite() -> None:
    tau = 1 / cross_image_pairs.LARGEST_EXPONENT
    student = F.normalize(torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0)), dim=2)
    none = student[:0]
    value, slope = cross_image_pairs.pairs_at_once(student, -student.flip(1), none, none, tau)
    want, want_slope = cross_image._pair_by_pair(*(x.double() for x in (student, -student.flip(1), none, none)), tau)
    assert float(value) == pytest.approx(float(want), rel=1e-5)
    assert float((slope - want_slope).norm() / want_slope.norm()) < 1e-5


def test_masked_rows_count_as_if_they_were_not_there() -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher, anchors = (torch.randn(n, 6, generator=g) for n in (23, 23, 9))
    anchors, valid = F.normalize(anchors, dim=1), torch.rand(23, generator=g) < 0.6
    student.requires_grad_()
    chosen = anchor_kd(student[valid], teacher[valid], anchors, kd_temperature=2.0)
    masked = anchor_kd(student, teacher, anchors, kd_temperature=2.0, valid=valid)
    assert float(masked.detach()) == pytest.approx(float(chosen.detach()), rel=1e-6)
    gradients = [torch.autograd.grad(x, student)[0] for x in (masked, chosen)]
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-9)
    assert float(gradients[0][~valid].abs().max()) == 0
    nothing = anchor_kd(student, teacher, anchors, valid=torch.zeros_like(valid))
    assert float(nothing.detach()) == 0
    assert float(torch.autograd.grad(nothing, student)[0].abs().max()) == 0


def test_mini_batch_does_not_depend_on_how_often_an_image_is_there() -> None:
    student, teacher = feature_pair(3)
    once, twice = (cross_image_kd(student.repeat(n, 1, 1, 1), teacher.repeat(n, 1, 1, 1)) for n in (1, 2))
    assert float(twice.detach()) == pytest.approx(float(once.detach()), rel=1e-6)
    total = [float(torch.autograd.grad(x, student)[0].norm()) for x in (once, twice)]
    assert total[0] == pytest.approx(total[1], rel=1e-5)


def test_remote_images_are_columns_without_gradient() -> None:
    student, teacher = feature_pair(4)
    local = [cross_image_kd(student[a], teacher[a], remote=(student[b], teacher[b]))
             for a, b in ((slice(0, 1), slice(1, 4)), (slice(1, 4), slice(0, 1)))]  # fmt: skip
    joint = cross_image_kd(student, teacher)
    assert float((local[0] + 3 * local[1]).detach()) / 4 == pytest.approx(float(joint.detach()), rel=1e-6)
    (gradient,) = torch.autograd.grad(local[0], student)
    assert float(gradient[0].norm()) > 0
    assert float(gradient[1:].norm()) == 0


@pytest.mark.parametrize(
    ("size", "max_nodes", "pooled"),
    [((64, 128), 8192, (64, 128)), ((128, 256), 8192, (64, 128)), ((65, 129), 8192, (33, 65)),
     ((97, 97), 100, (10, 10)), ((3, 50), 4, (1, 4)), ((5, 5), 1, (1, 1))],
)  # fmt: skip
def test_pooling_stays_below_max_nodes(size: tuple[int, int], max_nodes: int, pooled: tuple[int, int]) -> None:
    maps = torch.ones(1, 2, *size)
    assert pool_nodes(maps, max_nodes).shape[2:] == pooled
    assert pooled[0] * pooled[1] <= max_nodes
    assert torch.equal(pool_nodes(maps, max_nodes), torch.ones(1, 2, *pooled))  # windows that stick out do not dilute


def test_no_larger_map_than_max_nodes_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    import bpkd.functional.cross_image as module

    shapes, original = [], module._divergence_along
    monkeypatch.setattr(module, "_divergence_along", lambda s, t, dim: shapes.append(s.shape) or original(s, t, dim))
    student, teacher, target = cirkd_outputs(2, (40, 30))
    terms = CIRKD(**SMALL_CIRKD, max_nodes=300)(student, teacher, target)
    valid = int((nearest_labels(target, (40, 30)) != 255).sum())
    assert shapes == [(300, 300)] * 4 + [(valid, 45), (valid, 25)]  # of 1200 positions; one pair at a time
    assert terms["loss_kd_mini_batch"].isfinite()


def test_saved_memory_is_the_features_not_the_maps() -> None:
    student, teacher = feature_pair(3, (32, 32))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        value = cross_image_kd(student, teacher)
    assert max(kept) <= student.numel() < 1024 * 1024
    assert value.requires_grad


def test_chunks_change_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher, anchors = (torch.randn(n, 6, generator=g) for n in (23, 23, 9))
    student.requires_grad_()
    whole, parts = (anchor_kd(student, teacher, F.normalize(anchors, dim=1), rows_at_once=r) for r in (100, 5))
    assert float(whole.detach()) == pytest.approx(float(parts.detach()), rel=1e-6)
    assert float(gradient_norm(whole, student)) == pytest.approx(float(gradient_norm(parts, student)), rel=1e-5)


def test_anchor_kd_is_a_mean_over_rows() -> None:
    student, teacher, anchors = (F.normalize(torch.randn(n, 6), dim=1) for n in (7, 7, 9))
    once = anchor_kd(student, teacher, anchors)
    assert float(anchor_kd(student.repeat(3, 1), teacher.repeat(3, 1), anchors)) == pytest.approx(float(once), rel=1e-5)


@pytest.mark.parametrize(
    ("h", "w", "small"), [(128, 128, (16, 16)), (97, 161, (13, 21)), (7, 5, (7, 5)), (3, 3, (8, 8))]
)
def test_labels_are_taken_at_floor(h: int, w: int, small: tuple[int, int]) -> None:
    labels = torch.arange(h * w).view(1, h, w)
    got = nearest_labels(labels, small)
    for i in range(small[0]):
        for j in range(small[1]):
            assert int(got[0, i, j]) == (i * h // small[0]) * w + j * w // small[1]


def test_equal_features_give_no_gradient() -> None:
    teacher = cirkd_outputs()[1].features["decode"]
    student = teacher.clone().requires_grad_()
    rows, anchors = teacher.permute(0, 2, 3, 1).flatten(0, 2), F.normalize(torch.randn(20, 10), dim=1)
    student_rows = student.permute(0, 2, 3, 1).flatten(0, 2)
    for value in (cross_image_kd(student, teacher), anchor_kd(student_rows, rows, anchors)):
        assert float(value.detach()) == pytest.approx(0.0, abs=1e-7)
        assert float(gradient_norm(value, student)) == pytest.approx(0.0, abs=1e-7)


def test_wrong_shapes_are_said() -> None:
    with pytest.raises(ValueError, match=r"expected student \[N, Cs, h, w\]"):
        cross_image_kd(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"anchors \[M, D\]"):
        anchor_kd(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="max_nodes"):
        pool_nodes(torch.zeros(1, 1, 2, 2), 0)


# The distiller


def test_terms_and_their_weights() -> None:
    student, teacher, target = cirkd_outputs()
    torch.manual_seed(0)
    plain = CIRKD(**SMALL_CIRKD)
    terms = plain(student, teacher, target)
    assert list(terms) == [f"loss_kd_{x}" for x in ("pixel", "mini_batch", "memory_pixel", "memory_region")]
    torch.manual_seed(0)
    heavy = CIRKD(**SMALL_CIRKD, kd_weight=2.0, mini_batch_weight=3.0, pixel_weight=0.4, region_weight=0.5)
    for (name, a), b, factor in zip(terms.items(), heavy(student, teacher, target).values(), (2, 3, 4, 5), strict=True):
        assert float(b.detach()) == pytest.approx(factor * float(a.detach()), rel=1e-5), name
    for preset in ("recommended", "author_code"):
        chosen = CIRKD(**SMALL_CIRKD, preset=preset)
        weights = (chosen.kd_weight, chosen.mini_batch_weight, chosen.pixel_weight, chosen.region_weight)
        assert weights == (1.0, 1.0, 0.1, 0.1)


def test_the_memory_is_there_only_if_it_is_used() -> None:
    student, teacher, target = cirkd_outputs()
    none = CIRKD(pixel_weight=0.0, region_weight=0.0)
    assert none.memory == "none"
    assert not none.state_dict()
    assert list(none(student, teacher, target)) == ["loss_kd_pixel", "loss_kd_mini_batch"]
    pixels = CIRKD(**SMALL_CIRKD, region_weight=0.0)
    assert pixels.bank.region is None
    assert list(pixels(student, teacher, target))[2:] == ["loss_kd_memory_pixel"]
    assert pixels.memory.startswith("5 classes x (30 pixels + 0 regions) x 10 channels of float32: 0.000 GB")


def test_the_author_preset_sets_no_limit() -> None:
    sizes = {"pixel_queue": 2_000_000, "region_queue": 0, "num_classes": 50, **CHANNELS}
    with torch.device("meta"):
        default, author = (CIRKD(**{**sizes, "region_weight": 0.0}, preset=p) for p in ("recommended", "author_code"))
    assert default.bank.bytes <= 1e9 < author.bank.bytes == 4e9


def test_what_the_memory_needs_is_said() -> None:
    with pytest.raises(ValueError, match="CIRKD, tap 'layer9': expected a feature.*set both memory weights to 0"):
        CIRKD(num_classes=5, tap="layer9", **CHANNELS)
    with pytest.raises(ValueError, match="pixel_queue: expected at least 1 with pixel_weight 0.1, got 0"):
        CIRKD(num_classes=5, pixel_queue=0, **CHANNELS)
    with pytest.raises(ValueError, match="got 0 classes"):
        CIRKD(**CHANNELS)
    with pytest.raises(ValueError, match=r"preset .*: expected one of \['author_code', 'recommended'\]"):
        CIRKD(preset="voc")
    student, teacher, target = cirkd_outputs()
    with pytest.raises(KeyError, match="the student gives only logits, decode"):
        CIRKD(pixel_weight=0.0, region_weight=0.0, tap="layer9")(student, teacher, target)


def test_a_pass_without_gradient_leaves_the_memory_alone() -> None:
    distiller = CIRKD(**SMALL_CIRKD)
    before = {k: v.clone() for k, v in distiller.bank.state_dict().items()}
    with torch.no_grad():
        distiller(*cirkd_outputs())
    assert all(torch.equal(v, before[k]) for k, v in distiller.bank.state_dict().items())
    distiller(*cirkd_outputs())
    assert not torch.equal(distiller.bank.pixel.rows, before["pixel.rows"])


@pytest.mark.parametrize("sizes", [((9, 7), (9, 7)), ((9, 13), (17, 25))])
def test_odd_and_unequal_sizes(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    student, (_, teacher, target) = cirkd_outputs(size=sizes[0])[0], cirkd_outputs(size=sizes[1])
    terms = CIRKD(**SMALL_CIRKD, max_nodes=50)(student, teacher, target)
    sum(terms.values()).backward()
    assert all(v.isfinite() for v in terms.values())
    assert student.features["decode"].grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_under_autocast(dtype: torch.dtype) -> None:
    student, teacher, target = cirkd_outputs()
    exact = CIRKD(**SMALL_CIRKD)
    half = CIRKD(**SMALL_CIRKD)
    half.load_state_dict(exact.state_dict())
    low = [SegOutput(x.logits.to(dtype), None, {"decode": x.features["decode"].to(dtype)}) for x in (student, teacher)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = half(*low, target)
    for (name, a), b in zip(exact(student, teacher, target).items(), got.values(), strict=True):
        assert b.dtype == torch.float32
        assert float(a.detach()) == pytest.approx(float(b.detach()), rel=2e-2), name
    sum(got.values()).backward()
    for parameter in half.parameters():
        assert parameter.grad.isfinite().all()


def test_dead_pixels_stay_finite() -> None:
    """A pixel whose channels are all zero after the ReLU has no direction."""
    student, teacher, target = cirkd_outputs()
    before = student.features["decode"].detach().clone()
    before[:, :, :3] = -1.0
    before.requires_grad_()
    dead = teacher.features["decode"].clone()
    dead[:, :, 2:5] = 0.0
    distiller = CIRKD(**SMALL_CIRKD)
    alive = SegOutput(student.logits, None, {"decode": before.relu()})
    terms = distiller(alive, SegOutput(teacher.logits, None, {"decode": dead}), target)
    sum(terms.values()).backward()
    assert float(before.grad.norm()) < 1e3
    assert all(float(p.grad.norm()) < 1e3 for p in distiller.parameters())


def test_gradients_reach_student_and_head_only() -> None:
    student, teacher, target = cirkd_outputs()
    teacher.features["decode"].requires_grad_()
    teacher.logits.requires_grad_()
    distiller = CIRKD(**SMALL_CIRKD)
    sum(distiller(student, teacher, target).values()).backward()
    assert teacher.logits.grad is None
    assert teacher.features["decode"].grad is None
    assert all(float(p.grad.norm()) > 0 for p in distiller.parameters())
    assert not any(b.requires_grad for b in distiller.buffers())
