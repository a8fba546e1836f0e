"""How a run starts and how its network runs: ImageNet weights, memory layout, compilation."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from bpkd.convert import CheckpointError
from bpkd.engine import DistillationTrainer, argument_parser, load_config, main, run
from tests.helpers.engine_runs import TINY, largest_difference, losses, train, weights
from tests.helpers.processes import HANGS

CLASSES = 9


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "student.yaml"
    path.write_text(TINY % CLASSES)
    return path


def start(config: Path, *opts: str) -> DistillationTrainer:
    (config.parent / "out").mkdir(exist_ok=True)
    trainer = DistillationTrainer(load_config(str(config), ["OUTPUT_DIR", str(config.parent / "out"), *opts]))
    trainer.resume_or_load(resume=False)
    return trainer


def test_imagenet_weights_start_the_backbone(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = start(config).student.state_dict()
    pretrained = {k.removeprefix("backbone."): v + 1 for k, v in plain.items() if k.startswith("backbone.")}
    file = config.parent / "imagenet.pth"
    torch.save({"state_dict": {**pretrained, "fc.weight": torch.zeros(10, 4)}}, file)
    key = "MODEL.BACKBONE.WEIGHTS"
    with caplog.at_level("INFO", "bpkd"):
        got = start(config, key, str(file)).student.state_dict()
    assert "left out 1 weights that are no part of it (fc)" in caplog.text
    for name, value in got.items():
        assert torch.equal(value, plain[name] + 1 if name.startswith("backbone.") else plain[name]), name
    # Weights of the whole network come first.
    torch.save({"model": plain}, config.parent / "whole.pth")
    got = start(config, key, str(file), "MODEL.WEIGHTS", str(config.parent / "whole.pth")).student.state_dict()
    assert largest_difference(got, plain) == 0


def test_imagenet_weights_that_do_not_fit_are_refused(config: Path) -> None:
    state = {k: v for k, v in start(config).student.backbone.state_dict().items() if "layer4.1" not in k}
    torch.save(state, config.parent / "part.pth")
    with pytest.raises(CheckpointError, match=r"MODEL.BACKBONE.WEIGHTS .*keys of the network are missing: layer4\.1"):
        start(config, "MODEL.BACKBONE.WEIGHTS", str(config.parent / "part.pth"))
    with pytest.raises(FileNotFoundError, match="MODEL.BACKBONE.WEIGHTS: expected a checkpoint file"):
        start(config, "MODEL.BACKBONE.WEIGHTS", "nowhere.pth")
    factory = "tests.modeling.test_segmentor:Constant"
    foreign = ["MODEL.META_ARCHITECTURE", "ModuleSegmentor", "MODEL.MODULE.FACTORY", factory]
    with pytest.raises(ValueError, match="expected a network with a backbone, got ModuleSegmentor"):
        start(config, *foreign, "MODEL.BACKBONE.WEIGHTS", str(config.parent / "part.pth"))


@pytest.mark.parametrize("option", ["CHANNELS_LAST", "COMPILE"])
def test_the_way_a_network_runs_changes_nothing(config: Path, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without code generation, which takes a minute; `make test-slow` generates it for every architecture.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    folder = config.parent
    train(config, folder / "plain", "SOLVER.MAX_ITER", "2")
    trainer = train(config, folder / "other", "SOLVER.MAX_ITER", "2", f"MODEL.{option}", "True")
    assert weights(folder / "other").keys() == weights(folder / "plain").keys()
    for one, other in zip(losses(folder / "plain"), losses(folder / "other"), strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    student = trainer.student
    if option == "COMPILE":
        assert student._compiled is not None
    else:
        layout = torch.channels_last
        image = torch.zeros(3, 20, 30, dtype=torch.uint8)
        assert student.backbone.stem[0].weight.is_contiguous(memory_format=layout)
        assert student.images([{"image": image}]).is_contiguous(memory_format=layout)


def test_an_architecture_alone_is_no_run(config: Path) -> None:
    root = Path(__file__).parents[2] / "configs"
    with pytest.raises(ValueError, match="configs/networks describe networks alone"):
        load_config(str(root / "networks" / "pspnet_r18.yaml"))
    with pytest.raises(ValueError, match="DATASETS: expected one of .*cityscapes_fine_sem_seg_val.*got 'voc_2012_val'"):
        load_config(str(root / "ade20k" / "pspnet_r18.yaml"), ["DATASETS.TEST", "('voc_2012_val',)"])
    for flags, missing in ((["--eval-only"], "TEST"), ([], "TRAIN")):
        args = argument_parser().parse_args([*flags, "--config-file", str(config), f"DATASETS.{missing}", "()"])
        with pytest.raises(ValueError, match=f"DATASETS.{missing}: expected a data set, got none"):
            main(args)


def test_unknown_parts_list_the_known_ones(config: Path) -> None:
    for key, known in (("SEM_SEG_HEAD", "ISAHead"), ("BACKBONE", "build_hrnet_backbone")):
        with pytest.raises(ValueError, match=f"MODEL.{key}.NAME: expected one of .*{known}.*got 'Mine'.*IMPORTS"):
            start(config, f"MODEL.{key}.NAME", "Mine")


def _saves_on_sigterm(folder: Path) -> None:
    def save(*_: object) -> None:
        time.sleep(0.3)
        (folder / "saved").write_text("")
        os._exit(0)

    signal.signal(signal.SIGTERM, save)
    (folder / "ready").write_text("")
    time.sleep(HANGS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_every_process_and_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def launch(*_: object, **__: object) -> None:
        child = multiprocessing.get_context("fork").Process(target=_saves_on_sigterm, args=(tmp_path,))
        child.start()
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)
        child.join()

    monkeypatch.setattr("bpkd.engine.launch.launch", launch)
    before = signal.getsignal(number)
    args = argument_parser().parse_args(["--num-gpus", "2"])
    with pytest.raises(KeyboardInterrupt):
        run(args)
    assert (tmp_path / "saved").exists()
    assert signal.getsignal(number) is before


def test_a_run_warns_of_accumulated_losses_of_the_joint_batch(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(config, "SOLVER.ACCUMULATE", "2", "MODEL.SEM_SEG_HEAD.LOSS_DENOMINATOR", "valid")
    assert "SOLVER.ACCUMULATE: the averaged gradients of 2 batches" in caplog.text
    caplog.clear()
    start(config, "SOLVER.ACCUMULATE", "2")
    assert "SOLVER.ACCUMULATE" not in caplog.text
