"""Tests that every distiller passes: a subclass names it, restates its formula and inherits the tests."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing import start_processes

from bpkd.distillers import Distiller, arguments
from bpkd.structures import DISTILLATION_PREFIX, SegOutput

from .outputs import Batch, close, example_batch, gradients, leaves, mapped, parameter_gradients, trained, values


class DistillerSuite:
    """Tests of one distiller; inherit as ``class TestMine(DistillerSuite)``.

    Attributes:
        distiller: class under test.
        options: its arguments in these tests; the class's own defaults elsewhere.
        channels: channels of the student's and the teacher's feature ``decode``.
        no_oracle: terms that ``oracle`` leaves out because another test compares them.
        nonzero_at_teacher: terms that are not 0 where the student equals the teacher.
        nonzero_where_ignored: terms that labels change and that are not 0 where all pixels are ignored.
        averages_over_images: whether the loss of these batches is the mean of their images' losses, so that
            SOLVER.ACCUMULATE gives the joint batch's gradients. None: as the distiller says.
        processes_join: whether two processes with an image each train as one with both. None: as
            ``averages_over_images``; True for a loss of the joint batch that sums over the processes
            (`bpkd.distillers.sum_over_ranks`). False skips the test.
    """

    distiller: ClassVar[type[Distiller]]
    options: ClassVar[Mapping[str, Any]] = {}
    channels: ClassVar[tuple[int, int]] = (6, 8)
    no_oracle: ClassVar[frozenset[str]] = frozenset()
    nonzero_at_teacher: ClassVar[frozenset[str]] = frozenset()
    nonzero_where_ignored: ClassVar[frozenset[str]] = frozenset()
    averages_over_images: ClassVar[bool | None] = None
    processes_join: ClassVar[bool | None] = None

    def oracle(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        """Returns the terms by the paper's formula, weights applied, written independently of the distiller.

        Args:
            distiller: the distiller, for parameters of its own (in float32).
            student: the student's output in float64.
            teacher: the teacher's output in float64.
            labels: [N, 32, 32].
        """
        raise NotImplementedError(f"{type(self).__name__} must implement oracle().")

    def build(self, **common: Any) -> Distiller:
        """Returns a new distiller in training mode; always the same one."""
        torch.manual_seed(0)
        names = ("student_channels", "teacher_channels")
        channels = {name: {"decode": count} for name, count in zip(names, self.channels, strict=True)}
        built: Distiller = self.distiller(**{"num_classes": 5, **self.options, **channels, **common}).train()
        return built

    def batch(self, **options: Any) -> Batch:
        """Returns `example_batch` with this distiller's channels."""
        return example_batch(channels=options.pop("channels", self.channels), **options)

    def run(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, Tensor]:
        """Returns the terms without prefix; what is drawn at random is always the same."""
        torch.manual_seed(1)
        found = distiller(student, teacher, labels, 0)
        return {name.removeprefix(DISTILLATION_PREFIX): term for name, term in found.items()}

    def test_arguments_make_a_config_node(self) -> None:
        """Every argument can be a config key and has a line in Args."""
        found = arguments(type(self.build()))
        assert all(argument.meaning for argument in found.values()), "every argument has a line in Args"
        assert set(self.options) <= set(found)

    def test_terms_are_scalars_with_a_gradient(self) -> None:
        """``taps`` names the terms; each teaches the student, or is declared in ``critic_terms``."""
        student, teacher, labels = self.batch()
        student, distiller = leaves(student), self.build()
        terms = self.run(distiller, student, teacher, labels)
        assert set(terms) == set(distiller.taps), "taps names the terms"
        for name, term in terms.items():
            assert term.ndim == 0
            assert term.dtype == torch.float32
            assert term.isfinite()
            reached = any(float(g.abs().sum()) > 0 for g in gradients({name: term}, student))
            assert reached != (name in distiller.critic_terms), name

    def test_values_and_gradients_equal_the_oracle(self) -> None:
        """Values and gradients in float32 are those of the formula in float64."""
        student, teacher, labels = self.batch()
        ours, theirs, distiller = leaves(student), leaves(student, torch.float64), self.build()
        got = self.run(distiller, ours, teacher, labels)
        want = self.oracle(distiller, theirs, leaves(teacher, torch.float64), labels)
        assert set(want) | self.no_oracle == set(got)
        for name, value in want.items():
            assert float(got[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4, abs=1e-7), name
            assert close(gradients({name: got[name]}, ours), gradients({name: value}, theirs), rtol=1e-3), name

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        """Under autocast, with maps in half precision, the terms are finite float32."""
        student, teacher, labels = self.batch()
        student, teacher = (mapped(x, lambda x: x.to(dtype).float()) for x in (student, teacher))
        full = self.run(self.build(), student, teacher, labels)
        half = leaves(student, dtype)
        with torch.autocast("cpu", dtype):
            terms = self.run(self.build(), half, leaves(teacher, dtype), labels)
        assert all(term.dtype == torch.float32 for term in terms.values())
        assert values(terms) == pytest.approx(values(full), rel=0.05, abs=1e-3)
        assert all(g.isfinite().all() for g in gradients(terms, half))

    def test_the_number_that_means_ignore_does_not_matter(self) -> None:
        """``ignore_index`` is read from the argument."""
        student, teacher, labels = self.batch()
        other = torch.where(labels == 255, 77, labels)
        first = self.run(self.build(), student, teacher, labels)
        second = self.run(self.build(ignore_index=77), student, teacher, other)
        assert values(first) == values(second)

    def test_all_pixels_ignored(self) -> None:
        """Without a valid pixel terms are finite and keep the graph; one that labels change is an exact zero."""
        student, teacher, labels = self.batch()
        student, distiller = leaves(student), self.build()
        usual = self.run(self.build(), student, teacher, labels)
        terms = self.run(distiller, student, teacher, torch.full_like(labels, 255))
        for name, term in terms.items():
            found = [*gradients({name: term}, student), *parameter_gradients({name: term}, distiller)]
            assert term.requires_grad
            assert all(x.isfinite().all() for x in (term, *found)), name
            if name not in self.nonzero_where_ignored and not torch.equal(term, usual[name]):
                assert float(term.detach()) == 0, f"{name}: expected an exact zero where all pixels are ignored"
                assert not any(g.any() for g in found), f"{name}: expected no gradient where all pixels are ignored"

    def test_other_sizes_are_resized_to_the_teachers(self) -> None:
        """A student with maps of another size is compared at the size of the teacher."""
        student, teacher, labels = self.batch(size=(5, 7))
        resized = mapped(student, lambda x: F.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False))
        got, want = (self.run(self.build(), x, teacher, labels) for x in (student, resized))
        assert values(got) == pytest.approx(values(want), rel=1e-5, abs=1e-7)

    def test_the_teacher_gets_no_gradient(self) -> None:
        """The maps of the teacher are detached."""
        student, teacher, labels = self.batch()
        teacher = leaves(teacher)
        terms = self.run(self.build(), leaves(student), teacher, labels)
        assert not any(float(g.abs().sum()) for g in gradients(terms, teacher))

    def test_equal_networks_have_nothing_to_learn(self) -> None:
        """Terms and gradients are 0 where the student equals the teacher."""
        _, teacher, labels = self.batch(channels=(self.channels[1], self.channels[1]))
        same = leaves(teacher)
        distiller = self.build(student_channels={"decode": self.channels[1]})
        for name, term in self.run(distiller, same, teacher, labels).items():
            if name not in self.nonzero_at_teacher | distiller.critic_terms:
                assert abs(float(term.detach())) < 1e-6, name
                assert all(float(g.abs().max()) < 1e-6 for g in gradients({name: term}, same)), name

    def _halves(self, batch: Batch) -> Iterator[Batch]:
        for i in range(2):
            student, teacher = (mapped(x, lambda x, i=i: x[i : i + 1]) for x in batch[:2])
            yield student, teacher, batch[2][i : i + 1]

    def test_accumulated_gradients_are_those_of_the_joint_batch(self) -> None:
        """The mean over single images is the loss of their batch."""
        (student, teacher, labels), distiller = self.batch(), self.build()
        if not (distiller.averages_over_images if self.averages_over_images is None else self.averages_over_images):
            pytest.skip("the distiller's averages_over_images is False")
        student = leaves(student)
        whole = self.run(distiller, student, teacher, labels)
        parts = [self.run(self.build(), *half) for half in self._halves((student, teacher, labels))]
        mean = {name: torch.stack([part[name] for part in parts]).mean() for name in whole}
        advice = "is the loss a mean over images? If not, set averages_over_images = False in the class"
        assert values(mean) == pytest.approx(values(whole), rel=1e-4, abs=1e-7), advice
        assert close(gradients(mean, student), gradients(whole, student), rtol=1e-4)

    def test_two_processes_are_one(self, tmp_path: Path) -> None:
        """Two processes with an image each have the loss and, averaged, the gradients of one process with both."""
        (student, teacher, labels), distiller = self.batch(), self.build()
        said = (self.processes_join, self.averages_over_images, distiller.averages_over_images)
        if not next(x for x in said if x is not None):
            pytest.skip("processes_join is False, or averages_over_images where it is None")
        start_processes(_replica, (type(self), str(tmp_path)), 2, start_method="spawn")
        student = leaves(student)
        whole = self.run(distiller, student, teacher, labels)
        ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
        mean = {name: sum(r["terms"][name] for r in ranks) / 2 for name in whole}
        assert mean == pytest.approx(values(whole), rel=1e-4, abs=1e-7)
        joint = [torch.cat(parts) / 2 for parts in zip(*(r["maps"] for r in ranks), strict=True)]
        shared = [torch.stack(parts).mean(0) for parts in zip(*(r["parameters"] for r in ranks), strict=True)]
        want = [*gradients(whole, student), *parameter_gradients(whole, distiller)]
        assert close([*joint, *shared], want, rtol=1e-4)

    def test_a_resumed_run_goes_on_as_if_uninterrupted(self) -> None:
        """``state_dict`` holds all that the next step depends on."""
        student, teacher, labels = self.batch()
        distiller = self.build()
        for _ in range(2):
            self._step(distiller, student, teacher, labels)
        torch.manual_seed(5)
        other = self.build()
        with torch.no_grad():
            for x in (*other.parameters(), *other.buffers()):
                x.zero_()
        other.load_state_dict(copy.deepcopy(distiller.state_dict()))
        first, second = (self._step(one, student, teacher, labels) for one in (distiller, other))
        assert first == second
        for (name, a), b in zip(distiller.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b), name

    def _step(self, distiller: Distiller, student: SegOutput, teacher: SegOutput, labels: Tensor) -> dict[str, float]:
        terms = self.run(distiller, student, teacher, labels)
        found = parameter_gradients(terms, distiller)
        with torch.no_grad():
            for p, g in zip(trained(distiller), found, strict=True):
                p.sub_(0.01 * g)
        return values(terms)


def _replica(rank: int, suite: type[DistillerSuite], folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    tests = suite()
    student, teacher, labels = list(tests._halves(tests.batch()))[rank]
    student, distiller = leaves(student), tests.build()
    terms = tests.run(distiller, student, teacher, labels)
    found: dict[str, Any] = {"terms": values(terms)}
    found |= {"maps": gradients(terms, student), "parameters": parameter_gradients(terms, distiller)}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
