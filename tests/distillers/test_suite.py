"""Every distiller against a float64 oracle of its formula, and the rules that all of them keep."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd.distillers import BPKD, CIRKD, CWD, IFVD, KD, SKDS, CombinedDistiller, Distiller, Target
from bpkd.structures import SegOutput
from bpkd.testing.distillers import DistillerSuite


def kl(s: Tensor, t: Tensor, dim: int) -> Tensor:
    """KL(softmax t || softmax s) over a dimension."""
    return (t.softmax(dim) * (t.log_softmax(dim) - s.log_softmax(dim))).sum(dim)


def pixel(student: SegOutput, teacher: SegOutput) -> Tensor:
    return kl(student.logits, teacher.logits, 1).mean()


def channel(s: Tensor, t: Tensor, temperature: float = 1.0) -> Tensor:
    return temperature**2 * kl(s.flatten(2) / temperature, t.flatten(2) / temperature, 2).mean()


def small(labels: Tensor) -> Tensor:
    return labels[:, ::4, ::4]


class TestKD(DistillerSuite):
    distiller = KD
    options: ClassVar[dict[str, Any]] = {"weight": 2.0, "temperature": 3.0, "mask_ignored": True}
    averages_over_images = True  # the images have equally many valid pixels

    def oracle(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        valid = small(labels) != 255
        return {"pixel": 2.0 * 9.0 * kl(student.logits / 3, teacher.logits / 3, 1)[valid].mean()}


class TestCWD(DistillerSuite):
    distiller = CWD
    options: ClassVar[dict[str, Any]] = {"temperature": 4.0}

    def oracle(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        return {"channel": 5.0 * channel(student.logits, teacher.logits, 4.0)}


class TestCWDOnFeatures(DistillerSuite):
    distiller = CWD
    options: ClassVar[dict[str, Any]] = {"tap": "decode", "weight": 50.0}

    def oracle(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        weight = distiller.adapter.project.weight.double()[:, :, 0, 0]
        aligned = torch.einsum("nchw,dc->ndhw", student.features["decode"], weight)
        return {"channel": 50.0 * channel(aligned, teacher.features["decode"])}


def patches(x: Tensor) -> Tensor:
    """The maxima of the four quarters of a map over their norm, which has no gradient: [N, C, 4]."""
    quarters = x.view(*x.shape[:2], 2, 4, 2, 4).amax((3, 5)).flatten(2)
    return quarters / (quarters.detach().norm(dim=1, keepdim=True) + 1e-8)


class TestSKDS(DistillerSuite):
    distiller = SKDS
    options: ClassVar[dict[str, Any]] = {"adv_weight": 0.0, "pair_weight": 100.0}

    def oracle(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        s, t = (patches(x.features["decode"]) for x in (student, teacher))
        error = s.transpose(1, 2) @ s - t.transpose(1, 2) @ t
        return {"pixel": pixel(student, teacher), "pair": 100.0 * error.square().sum() / 4**2 / len(s)}


class TestSKDSWithItsCritic(TestSKDS):
    """The critic's terms against their golden values: test_adversary."""

    options: ClassVar[dict[str, Any]] = {"pair_weight": 100.0}
    no_oracle = nonzero_at_teacher = frozenset({"adv", "critic"})


def variation(x: Tensor, labels: Tensor) -> Tensor:
    """Cosine of every position with the mean of its class over the batch, 0 where the label is ignored."""
    out = torch.zeros(labels.shape, dtype=x.dtype)
    for n, one in enumerate(labels):
        for k in one.unique():
            if k != 255:
                here = one == k
                members = x[n][:, here]
                cosine = F.cosine_similarity(members, members.mean(1, keepdim=True).expand_as(members), 0)
                out[n] = out[n].masked_scatter(here, cosine)
    return out


class TestIFVD(DistillerSuite):
    distiller = IFVD
    options: ClassVar[dict[str, Any]] = {"adv_weight": 0.0}

    def oracle(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        s, t = (variation(x.features["decode"], small(labels)) for x in (student, teacher))
        return {"pixel": pixel(student, teacher), "ifv": 50.0 * (s - t).square().mean()}


class TestCIRKD(DistillerSuite):
    """The memory's terms against their golden values: test_cirkd; in two processes: test_cirkd_runs."""

    distiller = CIRKD
    options: ClassVar[dict[str, Any]] = {"pixel_queue": 20, "region_queue": 10}
    no_oracle = nonzero_at_teacher = frozenset({"memory_pixel", "memory_region"})

    def oracle(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        s, t = (F.normalize(x.features["decode"], dim=1).flatten(2) for x in (student, teacher))
        pairs = [kl(s[i].T @ s[j] / 0.1, t[i].T @ t[j] / 0.1, 1).mean() for i in range(len(s)) for j in range(len(s))]
        return {"pixel": pixel(student, teacher), "mini_batch": torch.stack(pairs).mean()}


def edge_shares(labels: Tensor, classes: int = 5, kernel: int = 3) -> Tensor:
    """Share of each 4 x 4 cell that lies on an edge of the class: both the class and another one in the window."""
    pad = F.pad(labels[:, None].double(), [kernel // 2] * 4, mode="replicate")
    windows = F.unfold(pad, kernel).view(len(labels), 1, kernel**2, *labels.shape[1:])
    has = torch.stack([(windows == k).any(2)[:, 0] for k in range(classes)], 1)
    lacks = torch.stack([(windows != k).any(2)[:, 0] for k in range(classes)], 1)
    return F.avg_pool2d((has & lacks).double(), 4)


class TestBPKD(DistillerSuite):
    distiller = BPKD
    options: ClassVar[dict[str, Any]] = {"preset": "paper", "kernel_size": 3}
    nonzero_where_ignored = frozenset({"body"})  # without edges the body is the whole image, as in CWD

    def oracle(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        mask, s, t = edge_shares(labels), student.logits, teacher.logits
        edge = 50.0 * (2.0 * mask * kl(s * mask, t * mask, 1)[:, None]).mean()
        return {"edge": edge, "body": 20.0 * channel(s * (1 - mask), t * (1 - mask))}


class TestCombined(DistillerSuite):
    distiller = KD

    def build(self, **common: Any) -> Distiller:
        options = {"num_classes": 5, **common}
        return CombinedDistiller({"KD": KD(**options), "CWD": CWD(**options)}, [0.5, 1.0])

    test_arguments_make_a_config_node = None  # it has no node: it is made of METHOD and WEIGHTS

    def oracle(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        return {"kd": 0.5 * pixel(student, teacher), "cwd": 5.0 * channel(student.logits, teacher.logits)}


class Labelled(Distiller):
    """The mean of squares where labels are valid, with a constant added before the division."""

    def __init__(self, *, constant: float = 0.0, **common: Any) -> None:
        super().__init__(**common)
        self.constant, self.taps = constant, {"squares": "logits"}

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        s, t = self.pair(student, teacher, "logits")
        valid = target.valid_positions((8, 8), self.ignore_index)[:, None]
        total = ((s - t).square() * valid).sum() + self.constant * s.square().sum()
        return {"squares": total / (valid.sum() + 1)}


@pytest.mark.parametrize(("constant", "accepted"), [(0.0, True), (0.1, False)])
def test_the_suite_expects_a_zero_where_all_pixels_are_ignored(constant: float, accepted: bool) -> None:
    class Suite(DistillerSuite):
        distiller = Labelled
        options: ClassVar[dict[str, Any]] = {"constant": constant}

    with contextlib.nullcontext() if accepted else pytest.raises(AssertionError, match="expected an exact zero"):
        Suite().test_all_pixels_ignored()


def test_the_suite_expects_a_distiller_to_say_that_it_does_not_average(monkeypatch: pytest.MonkeyPatch) -> None:
    class Suite(DistillerSuite):
        distiller = Labelled

    with pytest.raises(AssertionError, match="set averages_over_images = False in the class"):
        Suite().test_accumulated_gradients_are_those_of_the_joint_batch()
    monkeypatch.setattr(Labelled, "averages_over_images", False)
    with pytest.raises(pytest.skip.Exception, match="averages_over_images is False"):
        Suite().test_accumulated_gradients_are_those_of_the_joint_batch()
