"""Several teachers: what they are when they are one, and what the mean is."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from bpkd.config import check_values, teacher_nodes, teacher_shares
from bpkd.distillers import DISTILLERS, KD, PerTeacher
from bpkd.functional import mean_probabilities
from bpkd.modeling import FrozenTeacher, MeanTeacher, TeacherPanel, build_teachers
from tests.helpers.distiller_inputs import build, outputs, stop_power_iterations
from tests.helpers.tiny_networks import TINY, TORCHVISION, batch, save_teacher, tiny_cfg

WRAP = ("MODEL.META_ARCHITECTURE", "SemanticDistiller", "DISTILL.METHOD")
SIZE, CPU = (40, 48), torch.device("cpu")


def random(count: int, size: tuple[int, int] = (6, 7), classes: int = 5) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, classes, *size, generator=g) * 3 for _ in range(count)]


# Probabilities


def test_the_mean_of_probabilities_is_a_mean_of_probabilities() -> None:
    maps, shares = random(3), [0.2, 0.5, 0.3]
    want = sum(w * z.softmax(1) for w, z in zip(shares, maps, strict=True))
    torch.testing.assert_close(mean_probabilities(maps, shares).softmax(1), want)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.1, 0.9]])
def test_one_map_twice_is_that_map(shares: list[float]) -> None:
    (z,) = random(1)
    torch.testing.assert_close(mean_probabilities([z, z], shares), z)


def test_order_does_not_matter() -> None:
    a, b, c = random(3)
    torch.testing.assert_close(
        mean_probabilities([a, b, c], [0.2, 0.5, 0.3]), mean_probabilities([c, a, b], [0.3, 0.2, 0.5])
    )


def test_other_sizes_become_the_first_ones() -> None:
    a, b = random(1)[0], random(1, (12, 14))[0]
    small = torch.nn.functional.interpolate(b, size=(6, 7), mode="bilinear", align_corners=False)
    assert torch.equal(mean_probabilities([a, b], [0.5, 0.5]), mean_probabilities([a, small], [0.5, 0.5]))


def test_certain_teachers_stay_finite() -> None:
    maps = [1e4 * z for z in random(2)]
    assert mean_probabilities(maps, [0.5, 0.5]).isfinite().all()
    for wrong in ([1.0], [0.5, 0.6], [1.0, 0.0], []):
        with pytest.raises(ValueError, match="expected 2 positive numbers of sum 1"):
            mean_probabilities(maps, wrong)


# Losses


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_each_term_is_the_weighted_mean_over_the_teachers(name: str) -> None:
    student, first, target = outputs()
    second = copy.deepcopy(first)
    second.logits.mul_(-0.5)
    second.features["decode"].mul_(-0.5)
    torch.manual_seed(0)
    members = [build(name), build(name)]
    for member in members:
        stop_power_iterations(member)
    alone = []
    torch.manual_seed(1)  # of the gradient penalties
    for member, teacher in zip(copy.deepcopy(members), (first, second), strict=True):
        terms = member(student, teacher, target, 4)
        alone.append({k: (v, torch.autograd.grad(v, student.logits, retain_graph=True, allow_unused=True)[0])
                      for k, v in terms.items()})  # fmt: skip
    torch.manual_seed(1)
    got = PerTeacher(members, [0.3, 0.7])(student, [first, second], target, 4)
    assert got.keys() == alone[0].keys()
    for key, value in got.items():
        w = (1.0, 1.0) if key == "loss_kd_critic" else (0.3, 0.7)
        torch.testing.assert_close(value, sum(x * one[key][0] for x, one in zip(w, alone, strict=True)))
        if key != "loss_kd_critic":
            (gradient,) = torch.autograd.grad(value, student.logits, retain_graph=True)
            torch.testing.assert_close(gradient, sum(x * one[key][1] for x, one in zip(w, alone, strict=True)))


def test_distillers_of_two_teachers_share_nothing() -> None:
    both = PerTeacher([build("CIRKD"), build("CIRKD")], [0.5, 0.5])
    student, teacher, target = outputs()
    other = copy.deepcopy(teacher)
    other.features["decode"].mul_(-1)
    sum(both(student, [teacher, other], target).values()).backward()
    first, second = both.members
    pointers = [{x.data_ptr() for x in m.state_dict().values()} for m in (first, second)]
    assert not pointers[0] & pointers[1]
    assert not torch.equal(first.bank.pixel.rows, second.bank.pixel.rows)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in both.parameters())


def test_wrong_members_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one per distiller \(2\), got \[1.0\]"):
        PerTeacher([KD(), KD()], [1.0])
    with pytest.raises(ValueError, match="expected the same terms"):
        PerTeacher([build("KD"), build("CWD")], [0.5, 0.5])


# In the wrapper


def entry(folder: Path, seed: int, text: str = TINY) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    opts = save_teacher(folder, text=text, seed=seed)
    return {"CONFIG_FILE": opts[1], "WEIGHTS": opts[3]}


def several(first: dict[str, str], others: list[dict[str, Any]], *opts: Any) -> CfgNode:
    return tiny_cfg("TEACHER.CONFIG_FILE", first["CONFIG_FILE"], "TEACHER.WEIGHTS", first["WEIGHTS"],
                    "TEACHER.OTHERS", others, *opts)  # fmt: skip


@dataclass
class Step:
    """Terms, and the student's gradients from those that teach it; the distiller's first state."""

    terms: dict[str, Tensor]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


def step(cfg: CfgNode, state: dict[str, Tensor] | None = None) -> Step:
    """Runs one batch; ``state`` goes into the distiller of every teacher: adapters, critics and heads are random."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    for member in model.distiller.members if isinstance(model.distiller, PerTeacher) and state else []:
        member.load_state_dict(state)
    start = copy.deepcopy(model.distiller.state_dict())
    stop_power_iterations(model.distiller)
    terms = {k: v for k, v in model(batch(2)).items() if k.startswith("loss_kd")}
    sum(v for k, v in terms.items() if "critic" not in k).backward()
    return Step(terms, {k: p.grad for k, p in model.student.named_parameters() if p.grad is not None}, start)


def same(a: Step, b: Step) -> None:
    for key, value in a.terms.items():
        if "critic" not in key:  # one per teacher, summed
            torch.testing.assert_close(b.terms[key], value, rtol=1e-4, atol=1e-6)
    assert a.gradients.keys() == b.gradients.keys()
    scale = max(float(g.abs().max()) for g in a.gradients.values())
    assert scale > 0
    assert max(float((g - b.gradients[k]).abs().max()) for k, g in a.gradients.items()) < 1e-4 * scale


@pytest.mark.parametrize(
    ("combine", "method"),
    [
        *(("probabilities", method) for method in ("BPKD", "CWD", "KD", "CWD+KD")),  # the others tap features
        *(("losses", method) for method in (*sorted(DISTILLERS), "CWD+IFVD")),
    ],
)
def test_one_teacher_twice_is_one_teacher(tmp_path: Path, combine: str, method: str) -> None:
    teacher = entry(tmp_path, 1)
    small = ("DISTILL.CIRKD.PIXEL_QUEUE", 50, "DISTILL.CIRKD.REGION_QUEUE", 20)
    one = step(several(teacher, [], *WRAP, method, *small))
    for shares in ([], [1, 3]):
        both = several(teacher, [teacher], *WRAP, method, "TEACHER.COMBINE", combine, "TEACHER.SHARES", shares, *small)
        same(one, step(both, one.state))


@pytest.mark.parametrize("combine", ["probabilities", "losses"])
def test_shares_choose_and_order_does_not_matter(tmp_path: Path, combine: str) -> None:
    a, b = entry(tmp_path / "a", 1), entry(tmp_path / "b", 2)
    opts = (*WRAP, "KD+BPKD", "TEACHER.COMBINE", combine, "TEACHER.SHARES")
    first, second = (step(several(x, [], *WRAP, "KD+BPKD")) for x in (a, b))
    same(first, step(several(a, [b], *opts, [1, 0])))
    same(second, step(several(a, [b], *opts, [0, 2.0])))
    mixed, turned = step(several(a, [b], *opts, [1, 3])), step(several(b, [a], *opts, [0.75, 0.25]))
    same(mixed, turned)
    assert float((mixed.terms["loss_kd_kd"] - first.terms["loss_kd_kd"]).abs()) > 1e-3
    if combine == "losses":
        for key, value in mixed.terms.items():
            torch.testing.assert_close(value, 0.25 * first.terms[key] + 0.75 * second.terms[key])


def test_teachers_of_other_kind_size_and_classes(tmp_path: Path) -> None:
    """The second teacher's scores are as large as the image, and its classes stand in another order."""
    a, b = entry(tmp_path / "a", 1), entry(tmp_path / "b", 2, TORCHVISION)
    order = [4, 3, 2, 1, 0]
    items, maps = batch(1), []
    for key, opts in ((a, []), (b, ["TEACHER.CLASS_MAP", order])):
        maps.append(build_teachers(several(key, [], *opts))(items, SIZE, CPU).logits)
    assert maps[0].shape[-2:] != maps[1].shape[-2:]
    cfg = several(a, [{**b, "CLASS_MAP": order}], "TEACHER.SHARES", [1, 4])
    teacher = build_teachers(cfg)
    assert isinstance(teacher, MeanTeacher)
    torch.testing.assert_close(teacher(items, SIZE, CPU).logits, mean_probabilities(maps, [0.2, 0.8]))
    cfg.TEACHER.COMBINE = "losses"
    panel = build_teachers(cfg)
    assert isinstance(panel, TeacherPanel)
    for got, want in zip(panel(items, SIZE, CPU), maps, strict=True):
        assert torch.equal(got.logits, want)


@pytest.mark.parametrize(
    ("method", "opts"),
    [("SKDS", []), ("IFVD", []), ("CIRKD", []), ("KD+CIRKD", []), ("CWD", ["DISTILL.CWD.TAP", "layer4"])],
)
def test_features_have_no_mean(tmp_path: Path, method: str, opts: list[str]) -> None:
    a, b = entry(tmp_path / "a", 1), entry(tmp_path / "b", 2)
    with pytest.raises(ValueError, match="the mean of several teachers' probabilities has none.*COMBINE losses"):
        build_model(several(a, [b], *WRAP, method, *opts))


def test_without_the_feature_terms_they_may(tmp_path: Path) -> None:
    a, b = entry(tmp_path / "a", 1), entry(tmp_path / "b", 2)
    model = build_model(several(a, [b], *WRAP, "SKDS", "DISTILL.SKDS.PAIR_WEIGHT", 0.0)).train()
    assert set(model.distiller.taps) == {"pixel", "adv", "critic"}
    assert all(v.isfinite() for v in model(batch(2)).values())


def test_adapters_fit_their_teacher(tmp_path: Path) -> None:
    wide = TINY.replace("CHANNELS: 16", "CHANNELS: 24")
    a, b = entry(tmp_path / "a", 1), entry(tmp_path / "b", 2, wide)
    cfg = several(a, [b], *WRAP, "CWD", "DISTILL.CWD.TAP", "decode", "TEACHER.COMBINE", "losses")
    model = build_model(cfg).train()
    shapes = [tuple(p.shape) for p in model.distiller.parameters()]
    assert shapes == [(24, 16, 1, 1)]
    sum(model(batch(2)).values()).backward()
    assert float(next(model.distiller.parameters()).grad.abs().max()) > 0


# The config


def test_an_absent_share_loads_nothing(tmp_path: Path) -> None:
    a = entry(tmp_path, 1)
    teacher = build_teachers(several(a, [{"WEIGHTS": "nowhere.pth"}], "TEACHER.SHARES", [2, 0]))
    assert isinstance(teacher, FrozenTeacher)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([{"WEIGHT": "x"}], r"TEACHER.OTHERS\[0\]: expected keys of CONFIG_FILE, WEIGHTS, .*got WEIGHT"),
        (["a.yaml"], r"TEACHER.OTHERS\[0\]: expected a mapping .* got 'a.yaml'"),
        (
            [{}, {"WEIGHTS": 3}],
            r"TEACHER.OTHERS\[1\].WEIGHTS: expected a path, or an empty text, got 3 \(a whole number\)",
        ),
        ([{"OTHERS": []}], "got OTHERS"),
    ],
)
def test_entries_are_checked(others: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        teacher_nodes(tiny_cfg("TEACHER.OTHERS", others))


@pytest.mark.parametrize("shares", [[1], [1, 1, 1], [1, -1], [0, 0], [1, "2"], [1, float("nan")], [True, 1]])
def test_shares_are_checked(shares: list[Any]) -> None:
    cfg = tiny_cfg("TEACHER.OTHERS", [{}])
    cfg.TEACHER.SHARES = shares
    with pytest.raises(
        ValueError, match=r"TEACHER.SHARES: expected (one number per teacher \(2:|a list, each a number)"
    ):
        check_values(cfg)


def test_shares_become_parts_of_one() -> None:
    assert teacher_shares(tiny_cfg("TEACHER.OTHERS", [{}, {}])) == pytest.approx([1 / 3] * 3)
    assert teacher_shares(tiny_cfg("TEACHER.OTHERS", [{}], "TEACHER.SHARES", [1, 3])) == [0.25, 0.75]
    with pytest.raises(ValueError, match="TEACHER.COMBINE: expected one of probabilities, losses, got 'features'"):
        check_values(tiny_cfg("TEACHER.COMBINE", "features"))


def test_a_faulty_teacher_is_named_by_its_place(tmp_path: Path) -> None:
    a = entry(tmp_path, 1)
    with pytest.raises(ValueError, match=r"TEACHER.OTHERS\[1\].WEIGHTS: expected a checkpoint, got nothing"):
        build_teachers(several(a, [a, {"CONFIG_FILE": a["CONFIG_FILE"]}]))
    with pytest.raises(ValueError, match=r"TEACHER.OTHERS\[0\].AMP: expected"):
        build_teachers(several(a, [{**a, "AMP": "int8"}]))
