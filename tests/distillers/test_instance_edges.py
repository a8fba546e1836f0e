"""Edge maps of instances: the golden maps, the padding, and what a distiller makes of explicit maps."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bpkd.distillers import BPKD, CIRKD, CWD, IFVD, KD, LevelDistiller
from bpkd.functional import (
    binary_logits,
    boundary_kd,
    channel_kd,
    class_divergence,
    class_edge_mask,
    content_share,
    grid_edges,
    instance_edges,
    merged_edges,
    outside_region,
    pixel_kd,
)
from bpkd.structures import EdgeMaps, SegOutput

GRIDS = (40, 36, 24, 16, 12)
CANVAS = (256, 384)
GOLDEN = Path(__file__).parents[1] / "golden" / "solov2"


def golden() -> tuple[torch.Tensor, dict, dict]:
    targets, edges = np.load(GOLDEN / "targets.npz"), np.load(GOLDEN / "proposal_edges.npz")
    bits = np.unpackbits(targets["im0_masks_packed"], axis=1)[:, : CANVAS[0] * CANVAS[1]]
    height, width = (int(v) for v in targets["im0_size"][:2])
    masks = torch.from_numpy(bits.reshape(-1, *CANVAS)[:, :height, :width].astype(bool))
    return masks, targets, edges


def test_bands_equal_the_golden_ones() -> None:
    masks, _, edges = golden()
    full, quarter = instance_edges(masks, 5, CANVAS, [CANVAS, (64, 96)])
    want = np.unpackbits(edges["band_k5_packed"], axis=1)[:, : CANVAS[0] * CANVAS[1]].reshape(-1, *CANVAS)
    assert np.array_equal(full.numpy(), want.astype(np.float32))
    assert np.array_equal(quarter.numpy() * 16, edges["band_k5_stride4"].astype(np.float32))


@pytest.mark.parametrize("level", range(5))
def test_level_maps_equal_the_golden_ones(level: int) -> None:
    masks, targets, edges = golden()
    size = (GRIDS[level], GRIDS[level])
    (pooled,) = instance_edges(masks, 5, CANVAS, [size])
    members = torch.from_numpy(np.unique(targets[f"im0_light_l{level}_inst"])).long()
    got = merged_edges(pooled[members])
    assert np.allclose(got[0].numpy(), edges[f"grid_edge_light_l{level}_k5"], atol=1e-6, rtol=0)
    per_class = merged_edges(pooled[members], torch.from_numpy(targets["im0_labels"]).long()[members], 80)
    assert torch.equal(per_class.amax(0), got[0])
    labels = torch.from_numpy(targets[f"im0_light_l{level}_labels"]).long()
    assert np.array_equal(grid_edges(labels[None])[0, 0].numpy() > 0, edges[f"grid_label_edge_light_l{level}_k3"])


def boxes(*corners: tuple[int, int, int, int], size: tuple[int, int] = (48, 60)) -> torch.Tensor:
    masks = torch.zeros(len(corners), *size, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def test_the_padding_is_no_edge() -> None:
    masks = boxes((0, 0, 48, 60), (20, 20, 30, 30))
    (pooled,) = instance_edges(masks, 5, (64, 64), [(16, 16)])
    assert float(pooled[0].sum()) == 0  # it fills the content: only the border of picture and padding is around it
    padded = F.pad(masks, (0, 4, 0, 16))
    assert float(instance_edges(padded, 5, (64, 64), [(16, 16)])[0][0].sum()) > 0  # what padding first would give
    assert float(pooled[1].sum()) > 0


@pytest.mark.parametrize("size", [(16, 16), (12, 12), (5, 7)])
def test_edge_and_body_sum_to_the_content(size: tuple[int, int]) -> None:
    edge = merged_edges(instance_edges(boxes((5, 5, 40, 58), (0, 0, 10, 10)), 7, (64, 64), [size])[0])[None]
    valid = content_share((48, 60), (64, 64), size, edge)[None, None]
    body = (valid - edge).clamp(min=0)
    assert torch.allclose(edge + body, valid, atol=1e-6)
    content = torch.zeros(1, 1, 64, 64)
    content[..., :48, :60] = 1
    assert torch.allclose(valid, F.adaptive_avg_pool2d(content, size), atol=1e-6)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = boxes(*((i, i, i + 10, i + 12) for i in range(9)))
    whole = instance_edges(masks, 3, (64, 64), [(16, 16), (12, 12)])
    module = importlib.import_module("bpkd.functional.instance_edges")  # a function of the package has the same name
    monkeypatch.setattr(module, "CHUNK_PIXELS", 2 * 64 * 64)
    parts = instance_edges(masks, 3, (64, 64), [(16, 16), (12, 12)])
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_no_instance_gives_exact_zeros() -> None:
    (pooled,) = instance_edges(boxes(), 7, (64, 64), [(12, 12)])
    assert pooled.shape == (0, 12, 12)
    assert torch.equal(merged_edges(pooled), torch.zeros(1, 12, 12))
    assert torch.equal(merged_edges(pooled, torch.zeros(0), 3), torch.zeros(3, 12, 12))


def test_the_order_of_the_instances_does_not_matter() -> None:
    masks, classes = boxes((2, 2, 20, 20), (10, 10, 30, 40), (5, 30, 40, 58)), torch.tensor([1, 0, 1])
    order = torch.tensor([2, 0, 1])
    maps = [merged_edges(instance_edges(m, 5, (64, 64), [(16, 16)])[0], c, 2) for m, c in
            ((masks, classes), (masks[order], classes[order]))]  # fmt: skip
    assert torch.equal(*maps)


def test_a_canvas_that_is_too_small_is_named() -> None:
    with pytest.raises(ValueError, match=r"at most the canvas \(32, 64\)"):
        instance_edges(boxes((1, 1, 5, 5)), 5, (32, 64), [(8, 8)])


def logits(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(*shape, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


def test_bernoulli_divergence_is_the_sum_of_two_class_softmaxes() -> None:
    student, teacher = logits(2, 6, 4, 5)
    got = class_divergence(student, teacher, 2.0, independent=True)
    pairs = [F.log_softmax(binary_logits(x.flatten(0, 1) / 2.0), 1) for x in (student, teacher)]
    want = (pairs[1].exp() * (pairs[1] - pairs[0])).sum(1).view(2, 6, 4, 5).sum(1)
    assert torch.allclose(got, want, atol=1e-5)
    assert torch.equal(class_divergence(teacher, teacher, independent=True), torch.zeros(2, 4, 5))
    wild = class_divergence(student * 1e3, teacher * 1e3, independent=True)
    assert wild.isfinite().all()


def test_independent_classes_reach_kd_and_bpkd() -> None:
    student, teacher = logits(2, 6, 4, 5)
    outputs = [SegOutput(x, independent=True) for x in (student, teacher)]
    maps = EdgeMaps(torch.rand(2, 1, 4, 5))
    kd = KD()(*outputs, maps)["loss_kd_pixel"]
    assert torch.equal(kd, pixel_kd(student, teacher, independent=True))
    assert torch.equal(kd, class_divergence(student, teacher, independent=True).mean())
    terms = BPKD(preset="recommended_instance", edge_weight=1, body_weight=1)(*outputs, maps)
    divergence = class_divergence(student, teacher, independent=True)[:, None]
    weights = maps.edge.sum((1, 2, 3)).clamp(min=1)
    want = ((divergence * maps.edge).sum((1, 2, 3)) / weights).mean()
    assert torch.allclose(terms["loss_kd_edge"], want, rtol=1e-5)
    assert torch.equal(terms["loss_kd_body"], channel_kd(student, teacher))


@pytest.mark.parametrize("independent", [False, True])
def test_average_of_an_instances_map(independent: bool) -> None:
    student, teacher = logits(2, 6, 4, 5)
    maps = EdgeMaps(torch.rand(2, 1, 4, 5), torch.ones(2, 1, 4, 5))
    outputs = [SegOutput(x, independent=independent) for x in (student, teacher)]
    terms = BPKD(preset="recommended_instance", normalizer="average", edge_weight=3.0)(*outputs, maps)
    divergence = class_divergence(student, teacher, independent=independent)[:, None]
    assert torch.allclose(terms["loss_kd_edge"], 3 * 2 * (divergence * maps.edge).mean(), rtol=1e-5)  # alpha is 2
    assert torch.equal(terms["loss_kd_body"], 2 * channel_kd(student, teacher))


def test_labels_and_their_own_maps_are_one() -> None:
    student, teacher = (SegOutput(x) for x in logits(2, 5, 8, 8))
    labels = torch.randint(0, 5, (2, 32, 32), generator=torch.Generator().manual_seed(3))
    for preset in ("recommended", "literal", "paper"):
        bpkd = BPKD(preset=preset, kernel_size=5, num_classes=5)
        maps = EdgeMaps(class_edge_mask(labels, 5, 5, (8, 8)))
        a, b = bpkd(student, teacher, labels), bpkd(student, teacher, maps)
        assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("pre_mask", ["soft", "hard"])
def test_body_leaves_edge_and_padding_out(pre_mask: str) -> None:
    student, teacher = logits(1, 4, 4, 4)
    edge, valid = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    edge[..., 0], valid[..., 3] = 1, 0
    _, body = boundary_kd(student, teacher, edge, pre_mask=pre_mask, valid=valid)
    body.backward()
    assert float(student.grad[..., [0, 3]].abs().max()) == 0
    assert float(student.grad[..., 1:3].abs().max()) > 0


def test_kd_leaves_the_padding_out() -> None:
    student, teacher = logits(1, 4, 4, 4)
    valid = torch.ones(1, 1, 4, 4)
    valid[..., 2:] = 0
    masked = KD(mask_ignored=True)(SegOutput(student), SegOutput(teacher), EdgeMaps(valid=valid))["loss_kd_pixel"]
    assert torch.allclose(masked, pixel_kd(student[..., :2], teacher[..., :2]))


def test_outside_a_region_nothing_is_compared() -> None:
    student, teacher = logits(2, 4, 5)
    region = torch.zeros(2, 4, 5, dtype=torch.bool)
    region[:, 1:3, 1:4] = True
    s, t = (outside_region(binary_logits(x), region) for x in (student, teacher))
    inner = [binary_logits(x[:, 1:3, 1:4]) for x in (student, teacher)]
    assert torch.allclose(channel_kd(s, t), channel_kd(*inner))
    assert torch.allclose(pixel_kd(s, t) * 20, pixel_kd(*inner) * 6)
    channel_kd(s, t).backward()
    assert float(student.grad[~region].abs().max()) == 0


def test_methods_that_need_labels_say_so() -> None:
    channels = {"student_channels": {"decode": 4}, "teacher_channels": {"decode": 4}, "num_classes": 4}
    student, teacher = (SegOutput(x, features={"decode": x}) for x in logits(1, 4, 4, 4))
    for distiller in (IFVD(adv_weight=0, **channels), CIRKD(**channels)):
        with pytest.raises(ValueError, match="expected labels of every pixel, got edge maps"):
            distiller(student, teacher, EdgeMaps())
        with pytest.raises(ValueError, match=f"{type(distiller).__name__}, which needs the feature 'decode'"):
            LevelDistiller(distiller, name="category", compares="logits")
    with pytest.raises(ValueError, match="BPKD: expected labels, or edge maps with an edge"):
        BPKD()(student, teacher, EdgeMaps())


def test_levels_are_averaged_over_those_that_have_maps() -> None:
    pairs = [logits(n, 2, 4, 4, seed=n) for n in (3, 0, 1)]
    students, teachers = ([SegOutput(pair[i]) for pair in pairs] for i in range(2))
    maps = [EdgeMaps(torch.full((n, 1, 4, 4), 0.5)) for n in (3, 0, 1)]
    level = LevelDistiller(BPKD(preset="recommended_instance"), name="mask", compares="mask logits", weight=2.0)
    terms, values = level(students, teachers, maps, 0)
    assert set(terms) == {"loss_kd_mask_edge", "loss_kd_mask_body"}
    assert level.taps == {"mask_edge": "mask logits", "mask_body": "mask logits"}
    assert float(values["mask_edge"][1]) == 0
    single = BPKD(preset="recommended_instance")
    want = sum(single(students[i], teachers[i], maps[i])["loss_kd_edge"] for i in (0, 2))
    assert torch.allclose(terms["loss_kd_mask_edge"], want * 2.0 / 2)
    sum(terms.values()).backward()
    assert all(float(pairs[i][0].grad.abs().max()) > 0 for i in (0, 2))


@pytest.mark.parametrize("distiller", [KD(), CWD(), BPKD(preset="recommended_instance")])
def test_no_map_on_any_level_is_a_zero_with_a_graph(distiller: torch.nn.Module) -> None:
    student, teacher = logits(0, 2, 4, 4)
    level = LevelDistiller(distiller, name="mask", compares="mask logits")
    terms, _ = level([SegOutput(student)], [SegOutput(teacher)], [EdgeMaps(student.new_zeros(0, 1, 4, 4))], 0)
    for term in terms.values():
        assert float(term.detach()) == 0
        assert term.requires_grad
