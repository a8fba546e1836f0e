"""Several distillers in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from bpkd.distillers import DISTILLERS, CombinedDistiller, Distiller, PerTeacher
from bpkd.engine import DistillationTrainer, load_config
from bpkd.engine.hooks import SilentTermError, SilentTermGuard
from bpkd.export import to_torchscript
from bpkd.functional import gradient_norm
from tests.helpers.distiller_inputs import build, outputs, stop_power_iterations
from tests.helpers.engine_runs import TINY, largest_difference, losses, stop_after, train, weights
from tests.helpers.processes import two_processes
from tests.helpers.tiny_networks import batch, save_teacher, tiny_cfg
from tests.helpers.tools import export

WRAP = ("MODEL.META_ARCHITECTURE", "SemanticDistiller", "DISTILL.METHOD")
NAMES = {
    "loss_kd_cwd": ("CWD", "channel"),
    **{f"loss_kd_ifvd_{term}": ("IFVD", term) for term in ("pixel", "ifv", "adv", "critic")},
    "loss_kd_kd": ("KD", "pixel"),
}
FACTORS = {"CWD": 0.5, "IFVD": 3.0, "KD": 1.0}


def singles() -> dict[str, Distiller]:
    torch.manual_seed(0)
    parts = {name: build(name) for name in FACTORS}
    for part in parts.values():
        stop_power_iterations(part)
    return parts


def run(distiller: Distiller, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    student, teacher, target = outputs()
    torch.manual_seed(seed)  # of the gradient penalty
    return distiller(student, teacher, target, 3), student.logits


def test_terms_are_the_single_ones_times_the_factor_and_named_after_their_method() -> None:
    parts = singles()
    combined = CombinedDistiller(parts, list(FACTORS.values()))
    together, logits = run(combined)
    assert set(together) == set(NAMES) == {f"loss_kd_{term}" for term in combined.taps}
    assert combined.taps["ifvd_ifv"] == "decode"
    for name, (method, term) in NAMES.items():
        alone, own_logits = run(parts[method])
        # The critic's loss has weights of its own.
        factor = 1.0 if term == "critic" else FACTORS[method]
        torch.testing.assert_close(together[name], factor * alone[f"loss_kd_{term}"])
        want = factor * gradient_norm(alone[f"loss_kd_{term}"], own_logits)
        torch.testing.assert_close(gradient_norm(together[name], logits), want)
    assert combined.critic_terms == {"ifvd_critic"}


def test_the_critics_gradient_does_not_depend_on_the_factor() -> None:
    gradients = []
    for factor in (1.0, 7.0):
        torch.manual_seed(0)
        combined = CombinedDistiller({"SKDS": build("SKDS"), "KD": build("KD")}, [factor, 1.0])
        sum(run(combined)[0].values()).backward()
        gradients.append({n: p.grad for n, p in combined.named_parameters()})
    assert largest_difference(*gradients) == 0.0
    assert max(float(g.abs().max()) for g in gradients[0].values()) > 0


def test_one_distiller_with_a_factor_keeps_its_names() -> None:
    alone = run(build("BPKD"))[0]
    got = run(CombinedDistiller({"BPKD": build("BPKD")}, [2.0]))[0]
    assert got == {name: 2.0 * value for name, value in alone.items()}


def test_every_distiller_can_join_and_brings_its_optimizer() -> None:
    combined = CombinedDistiller({name: build(name) for name in sorted(DISTILLERS)})
    terms = run(combined)[0]
    assert len(terms) == sum(len(build(name).taps) for name in DISTILLERS)
    assert set(combined.parameter_options()) == {"parts.skds.adversary.", "parts.ifvd.adversary."}
    assert all(any(n.startswith(p) for n, _ in combined.named_parameters()) for p in combined.parameter_options())
    per_teacher = PerTeacher([combined], [1.0])
    assert set(per_teacher.parameter_options()) == {f"members.0.parts.{x}.adversary." for x in ("skds", "ifvd")}


def test_wrong_parts_are_refused() -> None:
    parts = {"KD": build("KD"), "CWD": build("CWD")}
    with pytest.raises(ValueError, match=r"one per distiller \(KD, CWD\), got \[1.0\]"):
        CombinedDistiller(parts, [1.0])
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected numbers above 0"):
            CombinedDistiller(parts, [1.0, bad])


@pytest.mark.parametrize(
    ("method", "factors", "message"),
    [
        ("CWD+CWD", [], "each distiller once, got 'CWD.CWD'"),
        ("CWD+IFDV", [], "expected one of none, BPKD.*joined by .*got 'IFDV'"),
        ("CWD+none", [], "got 'none'"),
        ("CWD+", [], "got ''"),
        ("CWD+KD", [1.0], r"one number above 0 per name of DISTILL.METHOD \('CWD.KD': 2\), got \[1.0\]"),
        ("CWD+KD", [1.0, 0.0], "DISTILL.WEIGHTS"),
        ("CWD+KD", [1.0, -2], "DISTILL.WEIGHTS"),
        ("CWD", [1.0, 1.0], "DISTILL.WEIGHTS"),
        ("none", [1.0], "DISTILL.WEIGHTS"),
    ],
)
def test_the_config_is_checked_before_anything_is_built(method: str, factors: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(tiny_cfg(*WRAP, method, "DISTILL.WEIGHTS", factors))  # there is no teacher either


def test_a_missing_feature_is_named_with_its_distiller(tmp_path: Path) -> None:
    opts = save_teacher(tmp_path)
    with pytest.raises(ValueError, match=r"DISTILL.IFVD, term 'ifv': expected a tap that the student has"):
        build_model(tiny_cfg(*opts, *WRAP, "CWD+IFVD", "DISTILL.IFVD.TAP", "layer9"))


def test_a_silent_term_is_named_with_its_tap() -> None:
    combined = CombinedDistiller({"CWD": build("CWD"), "IFVD": build("IFVD")})

    class FakeStep:
        values = {"loss_kd_cwd": 1.0, "loss_kd_ifvd_ifv": 0.0}

    class FakeTrainer:
        iter = 0

    guard = SilentTermGuard(FakeStep(), combined.taps)
    guard.trainer = FakeTrainer()
    for FakeTrainer.iter in range(guard.ITERATIONS - 1):
        guard.after_step()
    FakeTrainer.iter += 1
    with pytest.raises(SilentTermError, match=r"^loss_kd_ifvd_ifv \(tap 'decode'\)"):
        guard.after_step()


def test_weights_reach_the_wrapper(tmp_path: Path) -> None:
    opts = [*save_teacher(tmp_path), *WRAP]
    values = []
    for method, factors in (("CWD", []), ("BPKD", []), ("CWD+BPKD", [2, 0.25])):
        torch.manual_seed(0)
        values.append(build_model(tiny_cfg(*opts, method, "DISTILL.WEIGHTS", factors)).train()(batch(2)))
    cwd, bpkd, both = values
    torch.testing.assert_close(both["loss_kd_cwd"], 2 * cwd["loss_kd_channel"])
    torch.testing.assert_close(both["loss_kd_bpkd_edge"], 0.25 * bpkd["loss_kd_edge"])
    torch.testing.assert_close(both["loss_kd_bpkd_body"], 0.25 * bpkd["loss_kd_body"])
    assert len(both) == 5


# Runs: distillers with a critic and a memory, each with two teachers of which one is a file

CIRKD = "PIXEL_QUEUE: 60, REGION_QUEUE: 12, PIXEL_ANCHORS: 90, REGION_ANCHORS: 30, PIXELS_PER_IMAGE: 4"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("combined")
    (root / "student.yaml").write_text(TINY % 9)
    for seed in ("7", "8"):
        train(root / "student.yaml", root / seed, "SEED", seed, "SOLVER.MAX_ITER", "1")
    (root / "pair.yaml").write_text(
        "_BASE_: student.yaml\nMODEL: {META_ARCHITECTURE: SemanticDistiller}\n"
        f"DISTILL: {{METHOD: CWD+SKDS+CIRKD, WEIGHTS: [0.5, 1.0, 2.0], CIRKD: {{{CIRKD}}}}}\n"
        f"TEACHER:\n  CONFIG_FILE: {root}/student.yaml\n  WEIGHTS: {root}/7/model_final.pth\n"
        f"  OTHERS: [{{CONFIG_FILE: {root}/student.yaml, WEIGHTS: {root}/8/model_final.pth}}]\n"
        "  SHARES: [1, 3]\n  COMBINE: losses\n"
    )
    return root


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "model_final.pth", weights_only=True)["distiller"]


def test_resume_equals_no_interruption(pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "bpkd"):
        train(pair / "pair.yaml", tmp_path / "whole")
    assert caplog.text.count("9 classes x (60 pixels + 12 regions)") == 2  # a memory for each teacher
    (tmp_path / "parts").mkdir()
    first = DistillationTrainer(load_config(str(pair / "pair.yaml"), ["OUTPUT_DIR", str(tmp_path / "parts")]))
    first.resume_or_load(resume=False)
    first.after_step = stop_after(first, 2)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    train(pair / "pair.yaml", tmp_path / "parts", resume=True)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "parts")) == 0.0
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert largest_difference(whole, parts) == 0.0
    queue = "members.{}.parts.cirkd.bank.pixel.rows"
    assert not torch.equal(whole[queue.format(0)], whole[queue.format(1)])  # nothing is shared

    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["method"] == "CWD+SKDS+CIRKD"
    assert weights(tmp_path / "whole").keys() == weights(pair / "7").keys()  # a plain student
    row = losses(tmp_path / "whole")[-1]
    assert {"loss_kd_cwd", "loss_kd_skds_critic", "loss_kd_cirkd_memory_pixel"} <= row.keys()
    path = tmp_path / "student.ts"
    to_torchscript(first.student, str(path), (48, 48))
    assert path.is_file()


def test_two_processes_stay_one_run(pair: Path, tmp_path: Path) -> None:
    opts = ("SOLVER.MAX_ITER", "2", "DATASETS.CHECK", "off", "MODEL.SEM_SEG_HEAD.DROPOUT", "0.0")
    train(pair / "pair.yaml", tmp_path / "one", *opts)
    two_processes(pair / "pair.yaml", tmp_path / "two", *opts)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    for key in one:
        if ".bank." in key:
            assert torch.allclose(one[key], two[key], atol=1e-5), key
    first, second = (losses(tmp_path / x)[0] for x in ("one", "two"))
    assert second["loss_kd_cwd"] == pytest.approx(first["loss_kd_cwd"], rel=1e-4)


def test_a_run_with_an_exported_teacher_among_several(pair: Path, tmp_path: Path) -> None:
    path = export(pair / "student.yaml", pair / "8" / "model_final.pth", tmp_path / "teacher.ts", size=(48, 48))
    opts = ("DISTILL.METHOD", "KD+CWD", "DISTILL.WEIGHTS", "[]", "SOLVER.MAX_ITER", "2", "TEACHER.OTHERS")
    for combine in ("probabilities", "losses"):
        out = [tmp_path / f"{combine}_{kind}" for kind in ("eager", "exported")]
        eager = f"[{{'CONFIG_FILE': '{pair}/student.yaml', 'WEIGHTS': '{pair}/8/model_final.pth'}}]"
        for folder, others in zip(out, (eager, f"[{{'EXPORTED': '{path}'}}]"), strict=True):
            train(pair / "pair.yaml", folder, *opts, others, "TEACHER.COMBINE", combine)
        for a, b in zip(*map(losses, out), strict=True):
            assert a == pytest.approx(b, rel=1e-4)
