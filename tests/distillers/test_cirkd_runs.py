"""CIRKD over processes and in whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from bpkd.distillers import CIRKD
from bpkd.engine import DistillationTrainer, load_config
from bpkd.structures import SegOutput
from tests.helpers.distiller_inputs import SMALL_CIRKD, cirkd_outputs
from tests.helpers.engine_runs import TINY, largest_difference, losses, stop_after, train, weights
from tests.helpers.processes import spawn, two_processes

# Both processes, and one process that holds both images


def build(**kwargs: Any) -> CIRKD:
    torch.manual_seed(0)
    return CIRKD(**{**SMALL_CIRKD, **kwargs})


def images(which: slice, ignore_rank: int = -1) -> tuple[SegOutput, SegOutput, Tensor]:
    student, teacher, target = cirkd_outputs(2)
    target[target == 255] = 4  # equally many valid pixels in both images
    if ignore_rank >= 0:
        target[ignore_rank] = 255
    maps = [x.detach().clone()[which] for x in (student.logits, student.features["decode"])]
    maps = [x.requires_grad_() for x in maps]
    return (
        SegOutput(maps[0], None, {"decode": maps[1]}),
        SegOutput(teacher.logits[which], None, {"decode": teacher.features["decode"][which]}),
        target[which],
    )


def step(which: slice, ignore_rank: int = -1, steps: int = 3, **kwargs: Any) -> dict[str, Any]:
    """Runs the distiller on these images, then averages its gradients over the processes as DDP does."""
    distiller = build(**kwargs)
    student, teacher, target = images(which, ignore_rank)
    for iteration in range(steps):
        terms = distiller(student, teacher, target, iteration)
    sum(terms.values()).backward()
    gradients = {k: p.grad for k, p in distiller.named_parameters()}
    if dist.is_initialized():
        for gradient in gradients.values():
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    return {
        "terms": {k: float(v.detach()) for k, v in terms.items()},
        "state": distiller.state_dict(),
        "head": gradients,
        "student": student.features["decode"].grad,
    }


CASES: dict[str, dict[str, Any]] = {
    "plain": {"mini_batch_weight": 0.0},
    "ignored": {"ignore_rank": 1},
    "gather": {"gather": True, "pixel_weight": 0.0, "region_weight": 0.0},
    "alone": {"pixel_weight": 0.0, "region_weight": 0.0},
}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {name: step(slice(rank, rank + 1), **case) for name, case in CASES.items()}
    torch.save(results, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(worker, (str(folder),), 2)
    return [torch.load(folder / f"{rank}.pth") for rank in (0, 1)]


def mean_of_terms(ranks: list[dict[str, Any]], case: str) -> dict[str, float]:
    first, second = (r[case]["terms"] for r in ranks)
    return {k: (first[k] + second[k]) / 2 for k in first}


@pytest.mark.parametrize("case", ["plain", "ignored"])
def test_queues_equal_on_both_ranks_and_to_one_process(ranks: list[dict[str, Any]], case: str) -> None:
    one = step(slice(0, 2), **CASES[case])["state"]
    for key, value in one.items():
        if key.startswith("bank."):
            assert torch.equal(ranks[0][case]["state"][key], value), key
            assert torch.equal(ranks[1][case]["state"][key], value), key
    assert int(one["bank.pixel.pointer"].sum()) > 0


def test_two_processes_are_one_process_with_both_images(ranks: list[dict[str, Any]]) -> None:
    one = step(slice(0, 2), **CASES["plain"])
    assert mean_of_terms(ranks, "plain") == pytest.approx(one["terms"], rel=1e-5)
    for rank in (0, 1):
        for key, gradient in one["head"].items():
            assert torch.allclose(ranks[rank]["plain"]["head"][key], gradient, rtol=1e-4, atol=1e-7), key
        student = ranks[rank]["plain"]["student"][0] / 2  # of the rank's own loss, which counts half
        assert torch.allclose(student, one["student"][rank], rtol=1e-4, atol=1e-7)
        for name in ("running_mean", "running_var"):
            got, want = (x["state"][f"head.norm.{name}"] for x in (ranks[rank]["plain"], one))
            assert torch.allclose(got, want, rtol=1e-5)


def test_a_rank_without_a_valid_pixel_goes_along(ranks: list[dict[str, Any]]) -> None:
    for rank in (0, 1):
        result = ranks[rank]["ignored"]
        assert all(g.isfinite().all() for g in (*result["head"].values(), result["student"]))
        assert (result["terms"]["loss_kd_memory_pixel"] == 0.0) == (rank == 1)
        assert (result["terms"]["loss_kd_memory_region"] == 0.0) == (rank == 1)
    for key, gradient in ranks[0]["ignored"]["head"].items():
        assert torch.equal(gradient, ranks[1]["ignored"]["head"][key])
        assert float(gradient.norm()) > 0


def test_gathered_pairs_are_those_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    joint = step(slice(0, 2), pixel_weight=0.0, region_weight=0.0)["terms"]
    assert mean_of_terms(ranks, "gather") == pytest.approx(joint, rel=1e-5)
    assert mean_of_terms(ranks, "alone") != pytest.approx(joint, rel=1e-3)


# Runs

CIRKD_TINY = "PIXEL_QUEUE: 60, REGION_QUEUE: 12, PIXEL_ANCHORS: 90, REGION_ANCHORS: 30, PIXELS_PER_IMAGE: 4"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair's config and its teacher, one iteration old."""
    root = tmp_path_factory.mktemp("pair")
    (root / "student.yaml").write_text(TINY % 9)
    train(root / "student.yaml", root / "teacher", "SEED", "7", "SOLVER.MAX_ITER", "1")
    (root / "pair.yaml").write_text(
        "_BASE_: student.yaml\nMODEL: {META_ARCHITECTURE: SemanticDistiller}\n"
        f"DISTILL: {{METHOD: CIRKD, CIRKD: {{{CIRKD_TINY}}}}}\n"
        f"TEACHER: {{CONFIG_FILE: {root}/student.yaml, WEIGHTS: {root}/teacher/model_final.pth}}\n"
    )
    return root


def distiller_state(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["distiller"]


def test_resume_equals_no_interruption(pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "bpkd"):
        train(pair / "pair.yaml", tmp_path / "whole")
    assert "9 classes x (60 pixels + 12 regions) x 16 channels of float32" in caplog.text  # before training
    (tmp_path / "parts").mkdir()
    first = DistillationTrainer(load_config(str(pair / "pair.yaml"), ["OUTPUT_DIR", str(tmp_path / "parts")]))
    first.resume_or_load(resume=False)
    first.after_step = stop_after(first, 2)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    train(pair / "pair.yaml", tmp_path / "parts", resume=True)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "parts")) == 0.0
    states = [distiller_state(tmp_path / x) for x in ("whole", "parts")]
    assert largest_difference(*states) == 0.0
    fresh = first.build_model(first.cfg).distiller.state_dict()
    assert largest_difference(states[0], {k: v.cpu() for k, v in fresh.items()}) > 0.0


def test_checkpoint_is_a_plain_student(pair: Path, tmp_path: Path) -> None:
    train(pair / "pair.yaml", tmp_path, "SOLVER.MAX_ITER", "2")
    assert weights(tmp_path).keys() == weights(pair / "teacher").keys()
    row = losses(tmp_path)[-1]
    names = {f"loss_kd_{x}" for x in ("pixel", "mini_batch", "memory_pixel", "memory_region")}
    assert names <= row.keys()
    keys = distiller_state(tmp_path).keys()
    assert {"bank.pixel.rows", "bank.pixel.pointer", "bank.region.rows", "bank.region.pointer"} <= keys


def test_queues_of_a_run_do_not_depend_on_the_number_of_processes(pair: Path, tmp_path: Path) -> None:
    opts = ("SOLVER.MAX_ITER", "2", "DATASETS.CHECK", "off", "MODEL.SEM_SEG_HEAD.DROPOUT", "0.0")
    train(pair / "pair.yaml", tmp_path / "one", *opts)
    two_processes(pair / "pair.yaml", tmp_path / "two", *opts)
    one, two = (distiller_state(tmp_path / x) for x in ("one", "two"))
    for key in one:
        if key.startswith("bank."):
            assert torch.allclose(one[key], two[key], atol=1e-5), key


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision_trains(pair: Path, tmp_path: Path, dtype: str) -> None:
    opts = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype, "TEACHER.AMP", dtype, "SOLVER.MAX_ITER", "2")
    train(pair / "pair.yaml", tmp_path, *opts, "DISTILL.CIRKD.STORAGE", "float16")
    assert all(v.isfinite().all() for v in weights(tmp_path).values())
    assert distiller_state(tmp_path)["bank.pixel.rows"].dtype == torch.float16
