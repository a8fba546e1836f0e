"""The wrapper: what trains, what is saved, what is the same when it is taken off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from bpkd.distillers import DISTILLERS
from bpkd.modeling import SemanticDistiller, build_student
from bpkd.modeling.distillation import current_iteration
from tests.helpers.tiny_networks import TORCHVISION, batch, save_teacher, tiny_cfg

METHODS = {
    "KD": ["loss_kd_pixel"],
    "CWD": ["loss_kd_channel"],
    "BPKD": ["loss_kd_edge", "loss_kd_body"],
}
WRAP = ("MODEL.META_ARCHITECTURE", "SemanticDistiller", "DISTILL.METHOD")


def wrapper(folder: Path, method: str, *opts: object, text: str | None = None) -> SemanticDistiller:
    teacher = save_teacher(folder, **({"text": text} if text else {}))
    torch.manual_seed(0)
    return build_model(tiny_cfg(*teacher, *WRAP, method, *opts)).train()


@pytest.mark.parametrize("method", METHODS)
def test_training_returns_task_and_distillation_terms(method: str, tmp_path: Path) -> None:
    model = wrapper(tmp_path, method)
    losses = model(batch(2))
    terms = [k for k in losses if k.startswith("loss_kd")]
    assert list(losses) == ["loss_ce", "loss_aux", *METHODS[method]]
    assert all(v.dim() == 0 and v.isfinite() for v in losses.values())
    sum(losses[k] for k in terms).backward()
    assert float(model.student.decode_head.conv_seg.weight.grad.abs().max()) > 0


def test_teacher_is_outside_of_the_wrapper(tmp_path: Path) -> None:
    model = wrapper(tmp_path, "BPKD")
    own = sum(p.numel() for p in build_student(tiny_cfg()).parameters())
    assert sum(p.numel() for p in model.parameters()) == own
    assert all(k.startswith("student.") for k in model.state_dict())
    assert not any(m is model._teacher.model for m in model.modules())
    model.train()
    assert not model._teacher.model.training


@pytest.mark.parametrize("method", ["KD", "BPKD"])
def test_training_leaves_the_teacher_alone(method: str, tmp_path: Path) -> None:
    model = wrapper(tmp_path, method)
    before = {k: v.clone() for k, v in model._teacher.model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        sum(model(batch(2)).values()).backward()
        optimizer.step()
    for key, value in model._teacher.model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_student_is_the_plain_student(tmp_path: Path) -> None:
    """Same seed, same weights, same keys, same evaluation, in the distillation wrapper and without it."""
    model = wrapper(tmp_path, "BPKD")
    torch.manual_seed(0)
    plain = build_student(tiny_cfg())
    assert list(plain.state_dict()) == list(model.student.state_dict())
    for key, value in plain.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[key]), key
    item = [{"image": batch(1)[0]["image"], "height": 80, "width": 96}]
    with torch.no_grad():
        assert torch.equal(model.eval()(item)[0]["sem_seg"], plain.eval()(item)[0]["sem_seg"])


@pytest.mark.parametrize("method", METHODS)
def test_student_equal_to_teacher_gets_no_gradient(method: str, tmp_path: Path) -> None:
    model = wrapper(tmp_path, method)
    model.student.load_state_dict(model._teacher.model.state_dict(), strict=False)
    for module in model.student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # the teacher's statistics
    losses = model(batch(2))
    sum(v for k, v in losses.items() if k.startswith("loss_kd")).backward()
    for name, parameter in model.student.named_parameters():
        if "auxiliary" not in name:
            assert float(parameter.grad.abs().max()) < 1e-5, name


def test_output_sizes_are_reconciled(tmp_path: Path) -> None:
    """The teacher's scores are as large as the image, the student's an eighth."""
    model = wrapper(tmp_path, "BPKD", text=TORCHVISION)
    assert model._teacher(batch(1), (40, 48), torch.device("cpu")).logits.shape[-2:] == (40, 48)
    losses = model(batch(2))
    assert losses["loss_kd_edge"].isfinite()
    assert losses["loss_kd_edge"].requires_grad


def test_torchvision_network_as_student(tmp_path: Path) -> None:
    opts = save_teacher(tmp_path)
    cfg = tiny_cfg(*opts, text=TORCHVISION)
    cfg.merge_from_list([*WRAP, "CWD", "DISTILL.STUDENT", "ModuleSegmentor"])
    losses = build_model(cfg).train()(batch(2))
    assert list(losses) == ["loss_ce", *METHODS["CWD"]]


def test_method_none_needs_no_teacher() -> None:
    model = build_model(tiny_cfg(*WRAP, "none")).train()
    assert model.distiller is None
    assert list(model(batch(2))) == ["loss_ce", "loss_aux"]


def test_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="none, BPKD, CIRKD, CWD, .*KD.*'AKD'"):
        build_model(tiny_cfg(*WRAP, "AKD"))


def test_a_distiller_without_a_node_in_the_config_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny_cfg(*save_teacher(tmp_path), *WRAP, "MSE")
    monkeypatch.setitem(DISTILLERS, "MSE", DISTILLERS["KD"])
    with pytest.raises(ValueError, match=r"expected a node DISTILL.MSE, got none: .* Name its module in IMPORTS"):
        build_model(cfg)


def test_teacher_without_distiller_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a teacher and a distiller"):
        SemanticDistiller(student=build_student(tiny_cfg()), distiller=nn.Identity())
    with pytest.raises(TypeError, match="expected a subclass of bpkd.distillers.Distiller, got Identity"):
        SemanticDistiller(student=build_student(tiny_cfg()), teacher=object(), distiller=nn.Identity())


def test_gradient_probe_sees_terms_and_logits(tmp_path: Path) -> None:
    model = wrapper(tmp_path, "KD")
    seen = {}

    def probe(losses: dict, logits: torch.Tensor) -> None:
        for name, loss in losses.items():
            if name != "loss_aux":
                seen[name] = torch.autograd.grad(loss, logits, retain_graph=True)[0].norm()

    model.gradient_probe = probe
    sum(model(batch(2)).values()).backward()
    assert seen.pop("loss_ce") > 0
    assert len(seen) == 1
    assert next(iter(seen.values())) > 0


def test_iteration_is_the_training_loops() -> None:
    assert current_iteration() == 0
    with EventStorage(17):
        assert current_iteration() == 17


def test_under_autocast_losses_are_float32(tmp_path: Path) -> None:
    model = wrapper(tmp_path, "BPKD", "TEACHER.AMP", "bf16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch(2))
    assert {v.dtype for v in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
