"""Trainings on the CPU and, where there is one, on a GPU: precision, resume, masks from the loader, a group of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from bpkd.engine.launch import argument_parser, leave_group, main
from bpkd.engine.trainer import ddp_options
from tests.conftest import REPO
from tests.helpers.architecture import network
from tests.helpers.golden_solov2 import network as solov2

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]
SLIM = ("MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 0.0625, "MODEL.SEM_SEG_HEAD.CHANNELS", 16, "MODEL.AUX_HEAD.CHANNELS", 8)
SMALL = (
    *SLIM, "DATASETS.PROCEDURAL.NUM_TRAIN", 16, "DATASETS.PROCEDURAL.NUM_VAL", 2, "SOLVER.IMS_PER_BATCH", 4,
    "INPUT.CROP_SIZE", [64, 64], "DATALOADER.NUM_WORKERS", 0, "SOLVER.LOG_PERIOD", 1, "SOLVER.TF32", False,
)  # fmt: skip
TEACHER, PAIR = "configs/quickstart/teacher.yaml", "projects/BPKD/configs/quickstart/pspnet__bpkd.yaml"


def train(config: str, folder: Path, device: str, *opts: Any, steps: int = 4, resume: bool = False) -> list[float]:
    """Runs a training and returns the total losses of all its iterations."""
    given = ["MODEL.DEVICE", device, *SMALL, "OUTPUT_DIR", folder, "SOLVER.MAX_ITER", steps, *opts]
    arguments = ["--config-file", str(REPO / config), *(["--resume"] if resume else []), *(str(x) for x in given)]
    main(argument_parser().parse_args(arguments))
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [line["total_loss"] for line in lines if "total_loss" in line]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("teacher")
    train(TEACHER, folder, "cpu", steps=1)
    return ["TEACHER.WEIGHTS", folder / "model_final.pth", "TEACHER.OPTS", list(SLIM)]


@pytest.mark.parametrize("device", DEVICES)
def test_every_precision_begins_with_the_same_losses(device: str, tmp_path: Path, teacher: list[Any]) -> None:
    types = ("bf16", "fp16") if device == "cuda" else ("bf16",)
    want = train(PAIR, tmp_path / "float32", device, *teacher)
    for dtype in types:
        amp = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype]
        found = train(PAIR, tmp_path / dtype, device, *teacher, *amp)
        assert found[0] == pytest.approx(want[0], rel=0.02)
        assert found[-1] == pytest.approx(want[-1], rel=0.1)
        record = json.loads((tmp_path / dtype / "run.json").read_text())
        assert record["precision"]["student"] == dtype


@pytest.mark.parametrize("device", DEVICES)
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(device: str, tmp_path: Path, teacher: list[Any]) -> None:
    period = ["SOLVER.CHECKPOINT_PERIOD", 2]
    want = train(PAIR, tmp_path / "whole", device, *teacher, *period)
    train(PAIR, tmp_path / "cut", device, *teacher, *period)
    (tmp_path / "cut" / "last_checkpoint").write_text("model_0000001.pth")
    found = train(PAIR, tmp_path / "cut", device, *teacher, *period, resume=True)
    assert found[-2:] == pytest.approx(want[-2:], rel=1e-6 if device == "cpu" else 1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_masks_from_the_loader_are_those_of_the_step(device: str, tmp_path: Path, teacher: list[Any]) -> None:
    losses = [
        train(PAIR, tmp_path / where, device, *teacher, "DATALOADER.EDGE_MASKS", where) for where in ("step", "workers")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5 if device == "cpu" else 1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_group_of_one_process_trains_synchronised_norms(device: str, tmp_path: Path) -> None:
    """NCCL on a GPU, Gloo on a CPU: the gradient is that of the bare network."""
    model = network("pspnet_r18", *SLIM, "MODEL.DEVICE", device).to(device).train()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)

    def gradient(module: Any) -> torch.Tensor:
        model.zero_grad()
        torch.manual_seed(1)  # dropout
        module(images).square().mean().backward()
        return model.decode_head.conv_seg.weight.grad.clone()

    model.forward = lambda x: model.predict(x).logits  # type: ignore[method-assign]
    want = gradient(model)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/group", world_size=1, rank=0)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True, **ddp_options(model))
        torch.testing.assert_close(gradient(wrapped), want, rtol=1e-4, atol=1e-6)
    finally:
        leave_group()


@pytest.mark.parametrize("device", DEVICES)
def test_solov2_finds_the_same_objects_on_every_device(device: str) -> None:
    torch.manual_seed(0)
    model = solov2("light_r18")
    torch.nn.init.normal_(model.ins_head.cate_pred.weight, std=0.022)  # hundreds of cells find something
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    found = []
    for place in ("cpu", device):
        with torch.no_grad():
            (answer,) = model.to(place)([{"image": image, "height": 64, "width": 96}])
        found.append(answer["instances"].to("cpu"))
    assert len(found[0]) == len(found[1]) > 2
    assert found[1].pred_masks.shape[1:] == (64, 96)
    torch.testing.assert_close(found[1].scores, found[0].scores, rtol=1e-3, atol=1e-4)
