"""InstanceDistiller: terms, gradients, empty images, input modes, and what stays out of the student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from bpkd.modeling import SOLOv2
from bpkd.modeling.solov2.level_inputs import EdgeContext, category_levels
from bpkd.structures import SOLOv2Outputs
from tests.helpers.solov2_wrapper import NODE, wrapper
from tests.helpers.tiny_solov2 import WIDER, batch, save_teacher, tiny_cfg

METHODS = {"KD": ["pixel"], "CWD": ["channel"], "BPKD": ["edge", "body"]}
MASK_TERMS = ("mask_logits", "mask_towers", "mask_features")


def distilled(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in losses.items() if k.startswith("loss_kd_")}


@pytest.mark.parametrize("mask_term", MASK_TERMS)
@pytest.mark.parametrize("method", METHODS)
def test_terms_and_their_gradients(method: str, mask_term: str, tmp_path: Path) -> None:
    """Every term is there, finite and not 0, and reaches the branch that it is about; the teacher gets nothing."""
    model = wrapper(tmp_path, method, NODE + "MASK_TERM", mask_term)
    losses = model(batch(3, 0, 4))
    names = [f"loss_kd_{part}_{term}" for part in ("category", "mask") for term in METHODS[method]]
    assert list(losses) == ["loss_category", "loss_mask", *names]
    assert all(v.dim() == 0 and v.isfinite() and float(v.detach()) > 0 for v in losses.values())
    assert set(model.distiller.taps) == {name.removeprefix("loss_kd_") for name in names}
    sum(distilled(losses).values()).backward()
    student = model.student
    reached = [student.ins_head.cate_pred, student.backbone.bottom_up.res2[0].conv1]
    reached.append(student.mask_head.convs_all_levels[1].conv0[0])
    if mask_term == "mask_logits":
        reached += [student.ins_head.kernel_pred, student.mask_head.conv_pred[0]]
    if mask_term == "mask_features":
        reached += [model.distiller.adapter.project, student.mask_head.conv_pred[0]]
    for layer in reached:
        assert float(layer.weight.grad.abs().max()) > 0, layer
    assert all(p.grad is None and not p.requires_grad for p in model._teacher.model.parameters())


@pytest.mark.parametrize(
    ("mask_term", "options"),
    [
        *((term, ()) for term in MASK_TERMS),
        ("mask_logits", ("CATEGORY_EDGES", "grid", "BOX_REGION", 1.5)),
        ("mask_logits", ("PER_CLASS", True, "DIVERGENCE", "softmax")),
    ],
)
def test_a_student_equal_to_its_teacher_learns_nothing(mask_term: str, options: tuple, tmp_path: Path) -> None:
    teacher = save_teacher(tmp_path, "MODEL.SOLOV2.SIGMA", 0.2)
    opts = [x for pair in zip(options[::2], options[1::2], strict=True) for x in (NODE + pair[0], pair[1])]
    model = wrapper(tmp_path, "KD+CWD+BPKD", NODE + "MASK_TERM", mask_term, *opts, teacher=teacher)
    model.student.load_state_dict(model._teacher.model.state_dict())
    losses = model(batch(3, 4))
    assert len(distilled(losses)) == 8
    for name, loss in distilled(losses).items():
        assert abs(float(loss.detach())) < 1e-5, name


def test_matching_by_score_compares_with_the_teachers_best_cell(tmp_path: Path) -> None:
    """So a student that equals its teacher still learns from it, unless every instance has one cell."""
    several = ("MODEL.SOLOV2.SIGMA", 0.2)
    one = ("MODEL.SOLOV2.SIGMA", 0.0, "MODEL.SOLOV2.SCALE_RANGES", [[1, 14], [15, 28], [29, 56], [57, 112], [113, 224]])
    terms = {}
    for name, opts in (("several", several), ("one", one)):
        teacher = save_teacher(tmp_path, *opts)
        model = wrapper(tmp_path, "CWD", NODE + "MATCH", "score", *opts, teacher=teacher)
        model.student.load_state_dict(model._teacher.model.state_dict())
        terms[name] = float(model(batch(3, 4))["loss_kd_mask_channel"].detach())
    assert terms["several"] > 1e-3
    assert terms["one"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("counts", [(0, 0), (1,), (0, 4)])
@pytest.mark.parametrize("mask_term", MASK_TERMS)
def test_images_and_levels_without_instances(mask_term: str, counts: tuple[int, ...], tmp_path: Path) -> None:
    model = wrapper(tmp_path, "KD+CWD+BPKD", NODE + "MASK_TERM", mask_term)
    with EventStorage(0) as storage:
        losses = model(batch(*counts))
        logged = {k: v[0] for k, v in storage.latest().items()}
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    if not any(counts) and mask_term == "mask_logits":
        assert all(float(v.detach()) == 0 for k, v in losses.items() if k.startswith("loss_kd_mask"))
    if counts == (1,):  # one object of 26 pixels: levels 1 and 2
        parts = ["category", "mask"] if mask_term == "mask_logits" else ["category"]
        for part in parts:
            levels = [logged[f"kd_{part}_bpkd_edge_level{i}"] for i in range(5)]
            assert [value > 0 for value in levels] == [False, True, True, False, False], levels


def test_values_per_level_are_logged_and_average_to_the_terms(tmp_path: Path) -> None:
    model = wrapper(tmp_path, "BPKD")
    with EventStorage(0) as storage:
        losses = model(batch(3, 4))
        logged = {k: v[0] for k, v in storage.latest().items()}
    assert len(logged) == 4 * 5
    for name, loss in distilled(losses).items():
        levels = [logged[f"{name.removeprefix('loss_')}_level{i}"] for i in range(5)]
        used = [v for v in levels if v] if "mask" in name else levels
        assert sum(levels) / len(used) == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("size", [(62, 90), (64, 96), (33, 70)])
@pytest.mark.parametrize("edges", ["boundary", "grid"])
def test_edge_and_body_weights_sum_to_the_content(size: tuple[int, int], edges: str, tmp_path: Path) -> None:
    model = wrapper(tmp_path, "BPKD")
    items = batch(3, size=size)
    images = model.student.preprocess(items)
    targets = model.student.targets(items, images)
    outputs = model.student.raw_outputs(images.tensor)
    context = EdgeContext(targets, outputs.canvas, (7, 1), [tuple(x.shape[-2:]) for x in outputs.category_logits])
    levels = category_levels(outputs, outputs, context, independent=True, edges=edges, per_class=False)
    content = torch.zeros(1, 1, *outputs.canvas)
    content[..., : size[0], : size[1]] = 1
    for maps in levels.maps:
        pooled = nn.functional.adaptive_avg_pool2d(content, maps.edge_map.shape[-2:])
        body = (maps.valid - maps.edge_map).clamp(min=0)
        assert torch.allclose(maps.edge_map + body, pooled, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_instances_changes_nothing(method: str, tmp_path: Path) -> None:
    """These objects claim no cell twice; where two do, only the label of that cell depends on the order."""
    model = wrapper(tmp_path, method).eval()
    model.training = True
    items = batch(4, 3)
    mixed = [{**item, "instances": item["instances"][torch.arange(n - 1, -1, -1)]} for item, n in
             zip(items, (4, 3), strict=True)]  # fmt: skip
    with torch.no_grad():
        a, b = model(items), model(mixed)
    for name, value in a.items():
        assert torch.allclose(value, b[name], rtol=1e-5), name


def test_a_limit_of_pairs_bounds_the_masks(tmp_path: Path) -> None:
    model = wrapper(tmp_path, "CWD", NODE + "MAX_PAIRS", 2)
    seen = []
    model.distiller.parts["mask"].register_forward_pre_hook(
        lambda _, args: seen.append(sum(len(s.logits) for s in args[0]))
    )
    model(batch(4, 1))
    assert seen == [4]  # two of image 0's, the two levels of image 1's only object


def ranges(cfg: dict[str, Any]) -> list[Any]:
    return ["MODEL.SOLOV2.SCALE_RANGES", cfg["MODEL.SOLOV2.SCALE_RANGES"]]


@pytest.mark.parametrize(
    ("inputs", "mask_term"),
    [("same", "mask_logits"), ("same_ranges", "mask_logits"), *(("own_size", term) for term in MASK_TERMS)],
)
def test_input_modes(inputs: str, mask_term: str, tmp_path: Path) -> None:
    opts = ranges(WIDER) if inputs == "same_ranges" else []
    model = wrapper(tmp_path, "BPKD", NODE + "INPUT", inputs, NODE + "MASK_TERM", mask_term, *opts)
    seen: list[torch.Tensor] = []
    model._teacher.model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    losses = model(batch(3, 4))
    assert tuple(seen[0].shape[-2:]) == ((128, 192) if inputs == "own_size" else (64, 96))
    assert all(v.isfinite() and float(v.detach()) > 0 for v in losses.values())
    sum(losses.values()).backward()


def test_same_input_gives_the_teacher_the_same_picture_in_its_own_statistics(tmp_path: Path) -> None:
    teacher = save_teacher(tmp_path, "MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0], "MODEL.PIXEL_STD", [1.0, 1.0, 1.0])
    model = wrapper(tmp_path, "CWD", teacher=teacher)
    seen: list[torch.Tensor] = []
    model._teacher.model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    items = batch(3, 4)
    model(items)
    assert torch.equal(seen[0][0, :, :62, :90], items[0]["image"].float())
    assert float(seen[0][:, :, 62:].abs().max()) == 0


def test_cells_of_both_networks_lie_on_each_other_in_own_size(tmp_path: Path) -> None:
    """The teacher's assignment, derived from the student's, against one that is made in full at its own size.

    A mass centre of pixels twice as small lies a quarter of a pixel away, so a cell at a border may differ.
    """
    model = wrapper(tmp_path, "CWD", NODE + "INPUT", "own_size")
    items = batch(4, zoom=2.0)
    images = model.student.preprocess(items)
    _, derived = model._teacher(items, images, model.student.targets(items, images))
    large = batch(4, size=(124, 180))
    for item in large:
        found = items[0]["instances"]
        masks = found.gt_masks.tensor.repeat_interleave(2, 1).repeat_interleave(2, 2)
        item["instances"].gt_masks.tensor = masks
        item["instances"].gt_boxes.tensor = 2 * found.gt_boxes.tensor
    direct = model._teacher.model.assign([large[0]["instances"]], (128, 192))
    for a, b in zip(derived.levels, direct.levels, strict=True):
        assert torch.equal(a.instance.unique(), b.instance.unique())
    found = [
        {(i, int(c), int(k)) for i, x in enumerate(one.levels) for c, k in zip(x.cell, x.instance, strict=True)}
        for one in (derived, direct)
    ]
    assert len(found[0] & found[1]) >= 0.85 * len(found[1])


def test_own_size_needs_the_teachers_picture(tmp_path: Path) -> None:
    model = wrapper(tmp_path, "CWD", NODE + "INPUT", "own_size")
    items = batch(2)
    del items[0]["teacher_image"]
    with pytest.raises(ValueError, match="0.png: expected a 'teacher_image'"):
        model(items)


def test_teacher_is_outside_of_the_wrapper(tmp_path: Path) -> None:
    model = wrapper(tmp_path, "BPKD")
    assert all(k.startswith("student.") for k in model.state_dict())
    before = {k: v.clone() for k, v in model._teacher.model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        sum(model.train()(batch(3, 4)).values()).backward()
        optimizer.step()
    assert not model._teacher.model.training
    assert all(torch.equal(v, before[k]) for k, v in model._teacher.model.state_dict().items())


def test_without_a_method_it_is_the_student(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_cfg("MODEL.META_ARCHITECTURE", "InstanceDistiller")).train()
    torch.manual_seed(0)
    plain = SOLOv2(tiny_cfg()).train()
    assert model.distiller is None
    with torch.no_grad():
        a, b = model(batch(3)), plain(batch(3))
    assert list(a) == ["loss_category", "loss_mask"]
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_terms_are_float32_under_autocast(tmp_path: Path) -> None:
    model = wrapper(tmp_path, "BPKD")
    plain = distilled(model(batch(3)))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = distilled(model(batch(3)))
    for name, value in mixed.items():
        assert value.dtype == torch.float32
        assert torch.allclose(value, plain[name], rtol=0.2), name
    outputs = SOLOv2Outputs((), (), torch.zeros(1, 2, 3, 4), ())
    assert outputs.canvas == (12, 16)


def test_gradient_probe_measures_every_term(tmp_path: Path) -> None:
    from bpkd.functional import gradient_norm

    model = wrapper(tmp_path, "BPKD")
    norms = {}

    def probe(losses: dict, maps: list[torch.Tensor]) -> None:
        norms.update({k: float(gradient_norm(v, maps)) for k, v in losses.items()})

    model.gradient_probe = probe
    model(batch(3))
    assert set(norms) == {"loss_category", "loss_mask", *(f"loss_kd_{p}_{t}" for p in ("category", "mask")
                                                          for t in ("edge", "body"))}  # fmt: skip
    assert all(norm > 0 for norm in norms.values())


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ["DISTILL.METHOD", "IFVD"],
            "expected distillers of logits alone .* got IFVD, which needs the feature 'decode'",
        ),
        (["DISTILL.METHOD", "CIRKD"], "SOLOv2 is compared level by level, by KD, CWD"),
        (["DISTILL.METHOD", "SKDS"], "expected distillers of logits alone"),
        (["DISTILL.CWD.TAP", "decode"], "SOLOv2 is compared level by level"),
        ([NODE + "INPUT", "same_ranges"], "same_ranges: expected equal MODEL.SOLOV2.SCALE_RANGES"),
        ([NODE + "INPUT", "other"], "DISTILL.INSTANCE.INPUT: expected one of same, same_ranges, own_size"),
        ([NODE + "CATEGORY_WEIGHT", 0.0, NODE + "MASK_WEIGHT", 0.0], "expected CATEGORY_WEIGHT or MASK_WEIGHT above 0"),
        (["MODEL.SOLOV2.NUM_GRIDS", [8, 8, 6, 4, 3]], "MODEL.SOLOV2.NUM_GRIDS: expected the same"),
        (["MODEL.SOLOV2.NUM_CLASSES", 3], r"expected the same classes \(MODEL.SOLOV2.NUM_CLASSES\), got 4 and 3"),
        (["TEACHER.CLASS_MAP", [0, 1, 2, 3]], "TEACHER.CLASS_MAP: expected nothing for InstanceDistiller"),
        (
            ["TEACHER.OPTS", ["MODEL.SOLOV2.NUM_CLASSES", "3"]],
            "checkpoint has 4 classes, model has 3. Set MODEL.SOLOV2.NUM_CLASSES to 4",
        ),
        (["TEACHER.CACHE", "logits"], "TEACHER.CACHE: expected nothing for InstanceDistiller"),
        (
            ["TEACHER.OPTIMIZE", "auto"],
            "TEACHER.OPTIMIZE: expected off for InstanceDistiller, got 'auto'. TEACHER.AMP",
        ),
        (["TEACHER.WEIGHTS", ""], "TEACHER.WEIGHTS: expected a checkpoint"),
        (["MODEL.SOLOV2.MASK_CHANNELS", 64, NODE + "MASK_TERM", "mask_towers"], "expected towers of one width"),
    ],
)
def test_mistakes_are_named(opts: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        wrapper(tmp_path, "CWD", *opts)


@pytest.mark.parametrize("read", [True, False])
def test_other_classes_are_refused(read: bool, tmp_path: Path) -> None:
    """Own data that nobody has read yet too."""
    student = ["Cat ", "dog", "bird", "fish"]
    MetadataCatalog.pop("kd_objects_train", None)
    if read:
        MetadataCatalog.get("kd_objects_train").set(thing_classes=student)
    else:
        file, ids = tmp_path / "coco.json", (4, 2, 9, 7)
        order = sorted(range(4), key=lambda i: ids[i])
        rows = [{"id": ids[i], "name": student[order.index(i)]} for i in range(4)]
        file.write_text(json.dumps({"images": [], "annotations": [], "categories": rows}))
        MetadataCatalog.get("kd_objects_train").set(json_file=str(file))
    teacher = save_teacher(tmp_path)
    data = torch.load(tmp_path / "teacher.pth", weights_only=True)
    for names, refused in ((["cat", "dog", "bird", "fish"], False), (["cat", "dog", "fish", "bird"], True)):
        torch.save({**data, "bpkd": {"classes": names}}, tmp_path / "teacher.pth")
        opts = ("DATASETS.TRAIN", ("kd_objects_train",))
        if refused:
            with pytest.raises(ValueError, match="2: 'fish' / 'bird', 3: 'bird' / 'fish'"):
                wrapper(tmp_path, "CWD", *opts, teacher=teacher)
        else:
            wrapper(tmp_path, "CWD", *opts, teacher=teacher)


def test_another_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"DISTILL.STUDENT: expected SOLOv2, .* got SemanticSegmentor"):
        wrapper(
            tmp_path,
            "CWD",
            "DISTILL.STUDENT",
            "BPKDSemanticSegmentor",
            "MODEL.BACKBONE.NAME",
            "build_resnet_v1c_backbone",
        )


def test_one_part_can_be_left_out(tmp_path: Path) -> None:
    model = wrapper(tmp_path, "BPKD", NODE + "CATEGORY_WEIGHT", 0.0, NODE + "MASK_WEIGHT", 2.0)
    half = wrapper(tmp_path, "BPKD", NODE + "CATEGORY_WEIGHT", 0.0)
    a, b = model(batch(3)), half(batch(3))
    assert set(distilled(a)) == {"loss_kd_mask_edge", "loss_kd_mask_body"}
    assert all(torch.allclose(a[k], 2 * b[k]) for k in distilled(a))
