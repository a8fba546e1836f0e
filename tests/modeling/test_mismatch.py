"""A student and a teacher that agree in nothing: stride, sizes, channels, classes, pixel statistics, colour order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import Tensor, nn

from bpkd.distillers import DISTILLERS
from bpkd.modeling import SemanticDistiller, build_student
from tests.helpers.tiny_networks import batch, register, tiny_cfg

SIZE = (64, 80)
TEACHER_CLASSES = ("pole", "sky", "asphalt", "person", "gravel", "vegetation", "car")
CLASS_MAP = [4, 0, 1, -1, 1, 2, 3]  # other order, two merged into "road", one dropped
MEAN, STD = [101.0, 112.5, 120.25], [50.0, 61.0, 72.5]
TEACHER = f"""
MODEL:
  DEVICE: cpu
  PIXEL_MEAN: {MEAN}
  PIXEL_STD: {STD}
  RESNET_V1C: {{DEPTH: 34, WIDTH_MULTIPLIER: 0.25, OUTPUT_STRIDE: 16}}
  SEM_SEG_HEAD: {{CHANNELS: 24, NUM_CLASSES: 7, DROPOUT: 0.0}}
DATASETS: {{TRAIN: [mismatch_train]}}
INPUT: {{FORMAT: BGR, CROP_SIZE: [48, 48]}}
"""
WRAP = ("MODEL.META_ARCHITECTURE", "SemanticDistiller", "DISTILL.METHOD")
SMALL = ("DISTILL.CIRKD.PIXEL_QUEUE", 50, "DISTILL.CIRKD.REGION_QUEUE", 20)


def teacher_network() -> nn.Module:
    register("mismatch_train", TEACHER_CLASSES)
    torch.manual_seed(1)
    model = build_student(tiny_cfg(text=TEACHER))
    for name, parameter in model.named_parameters():
        if "bn" in name and name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    nn.init.normal_(model.decode_head.conv_seg.weight, std=0.1)
    return model.eval()


def distilled(folder: Path, method: str) -> tuple[SemanticDistiller, CfgNode]:
    (folder / "teacher.yaml").write_text(TEACHER)
    torch.save({"model": teacher_network().state_dict(), "bpkd": {"classes": list(TEACHER_CLASSES)}}, folder / "t.pth")
    cfg = tiny_cfg("TEACHER.CONFIG_FILE", str(folder / "teacher.yaml"), "TEACHER.WEIGHTS", str(folder / "t.pth"),
                   "TEACHER.CLASS_MAP", CLASS_MAP, "INPUT.CROP_SIZE", list(SIZE), *WRAP, method, *SMALL)  # fmt: skip
    torch.manual_seed(0)
    return build_model(cfg).train(), cfg


def test_the_two_agree_in_nothing(tmp_path: Path) -> None:
    model, cfg = distilled(tmp_path, "KD")
    student, teacher = model.student, model._teacher
    assert not torch.equal(student.pixel_mean, teacher.model.pixel_mean)
    assert (student.input_format, teacher.model.input_format) == ("RGB", "BGR")
    assert (student.num_classes, teacher.model.num_classes) == (5, 7)
    assert MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).stuff_classes != list(TEACHER_CLASSES)
    mine, others = student.feature_channels(), teacher.feature_channels()
    assert all(mine[name] != others[name] for name in mine)
    images, _ = student.preprocess(batch(2, SIZE))
    assert student.scores(images).logits.shape == (2, 5, 8, 10)
    assert teacher(batch(2, SIZE), SIZE, images.device).logits.shape == (2, 5, 4, 5)


@pytest.mark.parametrize("method", [*sorted(DISTILLERS), "BPKD+CIRKD+SKDS"])
def test_every_distiller_trains(tmp_path: Path, method: str) -> None:
    model, _ = distilled(tmp_path, method)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = {k: v.clone() for k, v in model.student.named_parameters()}
    for seed in (0, 1):
        optimizer.zero_grad()
        losses = model(batch(2, SIZE, seed))
        terms = {k: v for k, v in losses.items() if k.startswith("loss_kd")}
        assert set(terms) == {f"loss_kd_{name}" for name in model.distiller.taps}
        assert all(v.isfinite() and float(v.detach()) != 0 for v in terms.values())
        for name, term in terms.items():
            parameters = list(model.student.parameters())
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            reached = [g for g in gradients if g is not None]
            assert all(g.isfinite().all() for g in reached)
            assert any(float(g.abs().max()) > 0 for g in reached) == (not name.endswith("critic")), name
        sum(losses.values()).backward()
        optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())
    assert any(not torch.equal(p, before[k]) for k, p in model.student.named_parameters())


def kd_by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = teacher.log_softmax(1), student.log_softmax(1)
    return (p.exp() * (p - q)).sum(1).mean()


def cwd_by_hand(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = (x.flatten(2).log_softmax(2) for x in (teacher, student))
    return 5.0 * (p.exp() * (p - q)).sum() / (p.shape[0] * p.shape[1])


@pytest.mark.parametrize(("method", "term", "loss"), [("KD", "pixel", kd_by_hand), ("CWD", "channel", cwd_by_hand)])
def test_value_and_gradient_are_those_of_the_path_by_hand(tmp_path: Path, method: str, term: str, loss: Any) -> None:
    model, _ = distilled(tmp_path, method)
    items = batch(2, SIZE)
    raw = torch.stack([item["image"].float() for item in items])  # RGB, as the loader delivers them

    def statistics(values: list[float]) -> Tensor:
        return torch.tensor(values).view(1, 3, 1, 1)

    with torch.no_grad():
        scores = teacher_network().predict((raw.flip(1) - statistics(MEAN)) / statistics(STD)).logits
    # pole, sky, asphalt, person, gravel, vegetation, car -> sky, road, tree, car, pole
    road = torch.logaddexp(scores[:, 2], scores[:, 4])
    teacher = torch.stack([scores[:, 1], road, scores[:, 5], scores[:, 6], scores[:, 0]], 1)
    student = model.student
    images = (raw - statistics([123.675, 116.28, 103.53])) / statistics([58.395, 57.12, 57.375])
    logits = F.interpolate(student.predict(images).logits, size=(4, 5), mode="bilinear", align_corners=False)
    want = loss(logits, teacher)
    parameters = [p for n, p in student.named_parameters() if "auxiliary" not in n]
    gradients = torch.autograd.grad(want, parameters)

    got = model(items)[f"loss_kd_{term}"]
    assert float(want.detach()) > 0.01
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    scale = max(float(g.abs().max()) for g in gradients)
    for a, b in zip(torch.autograd.grad(got, parameters), gradients, strict=True):
        assert float((a - b).abs().max()) < 1e-4 * scale
