from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from bpkd.distillers import BPKD, CWD, KD, Distiller
from bpkd.distillers.adapters import ChannelAdapter, map_classes, match_size
from bpkd.functional import boundary_kd, class_edge_mask, gradient_norm
from bpkd.structures import SegOutput
from tests.conftest import TOLERANCE
from tests.helpers.distiller_inputs import outputs

GOLDEN = Path(__file__).parents[1] / "golden" / "distillers"


def test_terms_without_weight_are_left_out_and_none_at_all_is_an_error() -> None:
    student, teacher, target = outputs()
    assert list(BPKD(edge_weight=0.0)(student, teacher, target)) == ["loss_kd_body"]
    assert list(BPKD(body_weight=0.0)(student, teacher, target)) == ["loss_kd_edge"]
    for empty in (KD(weight=0.0), CWD(weight=0.0), BPKD(edge_weight=0.0, body_weight=0.0)):
        with pytest.raises(ValueError, match="all weights are 0"):
            empty(student, teacher, target)


def test_a_declared_term_that_is_not_delivered_is_an_error() -> None:
    student, teacher, target = outputs()
    kd = KD()
    kd.taps = {**kd.taps, "pair": "decode"}
    with pytest.raises(RuntimeError, match=r"terms\(\) did not return pair"):
        kd(student, teacher, target)


def test_bpkd_is_its_functions() -> None:
    student, teacher, target = outputs()
    got = BPKD(preset="literal", kernel_size=5, num_classes=5)(student, teacher, target)
    mask = class_edge_mask(target, 5, 5, (8, 8))
    edge, body = boundary_kd(student.logits, teacher.logits, mask)
    # The weights are applied in double precision there, after rounding here: not the same bits.
    assert float(got["loss_kd_edge"].detach()) == pytest.approx(50 * float(edge.detach()), rel=TOLERANCE[torch.float32])
    assert float(got["loss_kd_body"].detach()) == pytest.approx(20 * float(body.detach()), rel=TOLERANCE[torch.float32])


def test_bpkd_of_the_preset_paper_averages_the_edge_term() -> None:
    student, teacher, target = outputs()
    got = BPKD(preset="paper", kernel_size=5, num_classes=5)(student, teacher, target)
    mask = class_edge_mask(target, 5, 5, (8, 8))
    p, q = ((x.logits.detach() * mask).log_softmax(1) for x in (teacher, student))
    edge = 50 * (2 * (p.exp() * (p - q)).sum(1, keepdim=True) * mask).mean()
    p, q = ((x.logits.detach() * (1 - mask)).flatten(2).log_softmax(2) for x in (teacher, student))
    body = 20 * (p.exp() * (p - q)).sum() / (2 * 5)
    assert float(got["loss_kd_edge"].detach()) == pytest.approx(float(edge), rel=TOLERANCE[torch.float32])
    assert float(got["loss_kd_body"].detach()) == pytest.approx(float(body), rel=TOLERANCE[torch.float32])


def test_bpkd_preset_fills_what_is_left_open() -> None:
    assert BPKD(preset="literal", edge_weight=0.3).edge_weight == 0.3
    assert BPKD(preset="literal").body_weight == 20.0
    assert BPKD().normalizer == "classes"
    with pytest.raises(
        ValueError, match=r"preset .*: expected one of \['literal', 'paper', 'recommended', 'recommended_instance'\]"
    ):
        BPKD(preset="printed")


def test_bpkd_ramp_grows_to_the_full_weight() -> None:
    student, teacher, target = outputs()
    distiller = BPKD(ramp_iters=10)
    values = [float(distiller(student, teacher, target, i)["loss_kd_edge"].detach()) for i in (0, 4, 9, 50)]
    assert values[0] == pytest.approx(values[2] / 10)
    assert values[1] == pytest.approx(values[2] / 2)
    assert values[3] == values[2]


def test_kd_can_leave_out_ignored_pixels() -> None:
    student, teacher, target = outputs()
    terms = KD(mask_ignored=True)(student, teacher, torch.full_like(target, 255))
    assert float(terms["loss_kd_pixel"].detach()) == 0.0


def test_cwd_aligns_features_as_the_golden_says() -> None:
    features, align = np.load(GOLDEN / "features.npz"), np.load(GOLDEN / "align.npz")
    channels = {"student_channels": {"decode": 64}, "teacher_channels": {"decode": 128}}
    cwd = CWD(weight=1.0, temperature=4.0, tap="decode", **channels)
    assert cwd.adapter is not None
    cwd.adapter.project.weight.data = torch.from_numpy(align["cwd_conv_weight"])
    student = torch.from_numpy(features["student"]).requires_grad_()
    logits = torch.zeros(2, 3, 16, 16)
    out = cwd(
        SegOutput(logits, None, {"decode": student}),
        SegOutput(logits, None, {"decode": torch.from_numpy(features["teacher"])}),
        torch.zeros(2, 16, 16, dtype=torch.long),
    )["loss_kd_channel"]
    want = json.loads((GOLDEN / "expected.json").read_text())["derived"]
    want = want["cwd/feat_align1x1_nobias_T4_div_by_teacher_channels"]
    assert float(out.detach()) == pytest.approx(want["loss"], rel=TOLERANCE[torch.float32])
    assert float(gradient_norm(out, student)) == pytest.approx(want["grad_norm_student"], rel=TOLERANCE[torch.float32])


def test_a_tap_that_does_not_exist_is_an_error() -> None:
    student, teacher, target = outputs()
    with pytest.raises(ValueError, match="tap 'layer9'"):
        CWD(tap="layer9", student_channels={"layer4": 8}, teacher_channels={"layer4": 8})
    cwd = CWD(tap="decode", student_channels={"decode": 8}, teacher_channels={"decode": 8})
    with pytest.raises(KeyError, match="the student gives only logits"):
        cwd(SegOutput(student.logits), teacher, target)


def test_other_sizes_are_matched_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    student, _, target = outputs(size=(8, 8))
    _, teacher, _ = outputs(size=(9, 9))
    with caplog.at_level(logging.INFO, logger="bpkd"):
        for _ in range(2):
            BPKD()(student, teacher, target)
    lines = [r for r in caplog.records if "resized" in r.message]
    assert len(lines) == 1
    assert lines[0].levelno == logging.WARNING  # one pixel apart
    assert match_size(student.logits, teacher.logits).shape[-2:] == (9, 9)


def test_other_class_counts_are_refused() -> None:
    student, _, target = outputs(5)
    _, teacher, _ = outputs(6)
    with pytest.raises(ValueError, match="5 student and 6 teacher classes.*CLASS_MAP"):
        BPKD()(student, teacher, target)


def test_class_map_adds_probabilities() -> None:
    logits = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    merged = map_classes(logits, [1, 0, 1, 2], 3).softmax(1)
    p = logits.softmax(1)
    assert torch.allclose(merged, torch.stack([p[:, 1], p[:, 0] + p[:, 2], p[:, 3]], 1))
    with pytest.raises(ValueError, match="expected 4 entries"):
        map_classes(logits, [0, 1], 2)
    with pytest.raises(ValueError, match=r"without a teacher class \[1\]"):
        map_classes(logits, [0, 0, -1, -1], 2)


def test_adapter_exists_only_where_channels_differ() -> None:
    assert not list(ChannelAdapter(8, 8).parameters())
    assert [p.shape for p in ChannelAdapter(8, 16).parameters()] == [(16, 8, 1, 1)]


def test_base_class_asks_for_terms() -> None:
    student, teacher, target = outputs()
    with pytest.raises(NotImplementedError, match="terms"):
        Distiller()(student, teacher, target)
