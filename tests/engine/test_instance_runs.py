"""A few iterations of InstanceDistiller: what is logged, resumed, and the same with two processes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from detectron2.engine import hooks
from detectron2.engine.train_loop import HookBase
from detectron2.utils.events import JSONWriter
from torch.nn.parallel import DistributedDataParallel

from bpkd.engine.checkpoint import StudentCheckpointer
from bpkd.engine.hooks import SilentTermGuard
from bpkd.engine.monitors import GradientMonitor, ShareMonitor
from bpkd.engine.step import StepTrainer
from bpkd.modeling import InstanceDistiller
from tests.helpers.processes import spawn
from tests.helpers.solov2_wrapper import NODE, wrapper
from tests.helpers.tiny_solov2 import batch, save_teacher

BATCHES = [batch(3, 4, seed=0), batch(0, 2, seed=1), batch(1, 0, seed=2), batch(4, 4, seed=3)]


def trainer(model: InstanceDistiller, folder: Path, start: int = 0) -> tuple[StepTrainer, StudentCheckpointer]:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    step = StepTrainer(model, BATCHES[start:], optimizer, log_period=1)
    saver = StudentCheckpointer(model.student, str(folder), metadata={}, trainer=step, distiller=model.distiller)
    chain: list[HookBase] = [
        SilentTermGuard(step, model.distiller.taps),
        GradientMonitor(model, limit=1e9, patience=50),
        ShareMonitor(limit=0.9, patience=50),
        hooks.PeriodicWriter([JSONWriter(str(folder / "metrics.json"), window_size=1)], period=1),
    ]
    step.register_hooks(chain)
    return step, saver


def test_three_iterations_log_every_level_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    teacher = save_teacher(tmp_path)
    opts = (NODE + "MASK_TERM", "mask_features")  # its aligner has to be resumed too
    whole = wrapper(tmp_path, "BPKD", *opts, teacher=teacher)
    (tmp_path / "whole").mkdir()
    trainer(whole, tmp_path / "whole")[0].train(0, 3)
    row = json.loads((tmp_path / "whole" / "metrics.json").read_text().splitlines()[-1])
    for part, levels in (("category", 5), ("mask", 1)):
        for term in ("edge", "body"):
            assert all(f"kd_{part}_{term}_level{i}" in row for i in range(levels))
            for name in ("loss_kd", "loss_share_kd", "gradient_norm_kd", "gradient_ratio_kd"):
                wanted = f"{name}_{part}_{term}"
                assert wanted in row or name.startswith("gradient"), wanted  # those are there at every tenth iteration
    first = json.loads((tmp_path / "whole" / "metrics.json").read_text().splitlines()[0])
    assert first["gradient_ratio_kd_category_edge"] > 0
    assert first["gradient_norm_mask"] > 0

    (tmp_path / "parts").mkdir()
    part, saver = trainer(wrapper(tmp_path, "BPKD", *opts, teacher=teacher), tmp_path / "parts")
    part.train(0, 2)
    saver.save("model_0000001", iteration=1)
    saved = torch.load(tmp_path / "parts" / "model_0000001.pth", weights_only=True)
    assert not any(k.startswith(("student.", "distiller.", "_teacher")) for k in saved["model"])
    assert list(saved["distiller"]) == ["adapter.project.weight"]
    torch.manual_seed(7)
    again = wrapper(tmp_path, "BPKD", *opts, teacher=teacher)
    step, saver = trainer(again, tmp_path / "parts", start=2)
    saver.resume()
    step.train(2, 3)
    for key, value in whole.state_dict().items():
        assert torch.allclose(value, again.state_dict()[key], rtol=1e-4, atol=1e-6), key


def worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.set_num_threads(1)
    teacher = ["TEACHER.CONFIG_FILE", f"{folder}/teacher.yaml", "TEACHER.WEIGHTS", f"{folder}/teacher.pth"]
    model = wrapper(Path(folder), "BPKD", NODE + "MASK_WEIGHT", 0.0, teacher=teacher)
    replica = DistributedDataParallel(model, find_unused_parameters=True)  # alive until the backward pass is over
    losses = replica([batch(4, 2)[rank]])
    sum(v for k, v in losses.items() if k.startswith("loss_kd")).backward()
    if rank == 0:
        torch.save(gradients(model), f"{folder}/two.pth")
    torch.distributed.destroy_process_group()


def gradients(model: InstanceDistiller) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Category terms are means over images. Mask terms are means over the pairs of a process, as the task's own are."""
    teacher = save_teacher(tmp_path)
    spawn(worker, (str(tmp_path),), 2)
    model = wrapper(tmp_path, "BPKD", NODE + "MASK_WEIGHT", 0.0, teacher=teacher)
    losses = model(batch(4, 2))
    sum(v for k, v in losses.items() if k.startswith("loss_kd")).backward()
    two, one = torch.load(tmp_path / "two.pth", weights_only=True), gradients(model)
    assert float(one["student.ins_head.cate_pred.weight"].abs().max()) > 0
    for name, gradient in one.items():
        assert torch.allclose(two[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max() + 1)), name
