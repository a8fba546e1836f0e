"""The paper's configs say what the paper says: which files there are, recipes, protocols, pairs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from bpkd.distillers import DISTILLERS
from bpkd.engine import DistillationTrainer
from tests.helpers.config_files import FILES, METHODS, PAIRS, PAPER, ROOT, RUNS, SET_PAIRS, SETS, TEACHERS, config


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # TEACHER.CONFIG_FILE is relative to it


def network(data_set: str, stem: str) -> CfgNode:
    return config(f"configs/{data_set}/{stem}.yaml")


def pair_of(data_set: str, stem: str) -> CfgNode:
    return config(f"projects/BPKD/configs/{data_set}/{stem}.yaml")


def test_no_file_is_missing_and_none_is_left_over() -> None:
    alone = {f"{s}/{n}" for s in SETS for p in PAIRS for n in p.split("__")}
    alone |= {"cityscapes/deeplabv3plus_mv2_c128", "cityscapes/pspnet_r18b"}
    have = {f"{Path(n).parent.name}/{Path(n).stem}" for n in PAPER if n.startswith("configs/")}
    assert have == alone
    wanted = {f"{s}/{p}__{m}_{k}" for s, p in SET_PAIRS for m in METHODS for k in ("40k", "80k")}
    wanted |= {f"{s}/{p.split('__')[0]}_40k" for s, p in SET_PAIRS} | {"cityscapes/pspnet_r18b_40k"}
    wanted |= {f"{s}/{PAIRS[0]}__{m}_scratch_40k" for s in SETS for m in METHODS if m in ("cwd", "bpkd")}
    wanted |= {f"{s}/pspnet_r18_scratch_40k" for s in SETS}
    have = {f"{Path(n).parent.name}/{Path(n).stem}" for n in PAPER if n.startswith("projects/")}
    assert have == wanted


def test_no_two_runs_share_a_folder() -> None:
    folders = [config(n).OUTPUT_DIR for n in RUNS if config(n).OUTPUT_DIR != "./output"]
    assert len(folders) > 90
    assert len(folders) == len(set(folders))


RECIPES = {
    #                      classes, crop, resize box, batch, lr, weight decay
    "ade20k": (150, [512, 512], [2048, 512], 16, 0.01, 5e-4),
    "cityscapes": (19, [512, 1024], [2048, 1024], 8, 0.01, 5e-4),
    "pascal_context59": (59, [480, 480], [520, 520], 16, 0.004, 1e-4),
}
# The same for all.
INPUT = {"SCALE_RANGE": [0.5, 2.0], "CROP_MAX_CLASS_SHARE": 0.75, "FLIP_PROB": 0.5, "PHOTOMETRIC": True,
         "FORMAT": "RGB"}  # fmt: skip
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
OWN_CROP = {"configs/cityscapes/isanet_r101.yaml": 769, "configs/pascal_context59/isanet_r101.yaml": 512}


@pytest.mark.parametrize("name", PAPER)
def test_recipe_of_the_paper(name: str) -> None:
    cfg, path = config(name), Path(name)
    classes, crop, box, batch, lr, decay = RECIPES[path.parent.name]
    crop = [OWN_CROP[name]] * 2 if name in OWN_CROP else crop
    crop = [512, 512] if path.stem.endswith("_40k") else crop
    box = [2049, 1025] if name == "configs/cityscapes/isanet_r101.yaml" else box
    assert classes == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert (list(cfg.INPUT.CROP_SIZE), list(cfg.INPUT.RESIZE_BOX), list(cfg.INPUT.TEST_BOX)) == (crop, box, box)
    solver = cfg.SOLVER
    assert (batch, lr, 1e-4) == (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MIN_LR)
    assert (decay, decay) == (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM)
    assert (solver.OPTIMIZER, solver.MOMENTUM, solver.WARMUP_ITERS, solver.HEAD_LR_MULTIPLIER) == ("sgd", 0.9, 0, 1.0)
    assert solver.CLIP_GRADIENTS.ENABLED is False
    assert cfg.MODEL.SEM_SEG_HEAD.LOSS_DENOMINATOR == "all"
    assert dict(INPUT) == {key: cfg.INPUT[key] for key in INPUT}
    assert (solver.LR_SCHEDULER_NAME, solver.POLY_POWER) == ("PolyLR", 0.9)
    assert (list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)) == (MEAN, STD)
    aux = 0.0 if path.stem.startswith("hrnet") else 0.4  # HRNet has no auxiliary head
    assert (cfg.MODEL.AUX_HEAD.LOSS_WEIGHT, list(cfg.TEST.SCALES), cfg.TEST.FLIP) == (aux, [1.0], False)
    long = path.stem in TEACHERS and (path.parent.name == "ade20k" or name == "configs/cityscapes/hrnet_w48.yaml")
    steps = 40_000 if path.stem.endswith("_40k") else 160_000 if long else 80_000
    assert (steps, steps // 10, steps // 10) == (solver.MAX_ITER, solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD)


def test_optimizer_is_plain_sgd_with_decay_on_batch_norm_and_biases_too() -> None:
    cfg, layers = (
        network("ade20k", "pspnet_r18"),
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)),
    )
    optimizer = DistillationTrainer.build_optimizer(cfg, layers)
    assert isinstance(optimizer, torch.optim.SGD)
    for group in optimizer.param_groups:
        assert [group[k] for k in ("lr", "momentum", "weight_decay", "nesterov", "dampening")] == [
            0.01,
            0.9,
            5e-4,
            False,
            0,
        ]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


@pytest.mark.parametrize("name", [n for n in PAPER if not n.startswith("projects/")])
def test_protocol_of_the_paper(name: str) -> None:
    test, path = config(name).TEST, Path(name)
    windows = {"cityscapes/isanet_r101": (769, 513), "pascal_context59/hrnet_w18s": (512, 320)}
    windows |= {f"pascal_context59/{n}": (480, 320) for n in ("pspnet_r18", "pspnet_r101", "hrnet_w48", TEACHERS[2])}
    window = windows.get(f"{path.parent.name}/{path.stem}")
    assert ("slide" if window else "whole") == test.MODE
    if window:
        assert (list(test.SLIDE_CROP), list(test.SLIDE_STRIDE)) == ([window[0]] * 2, [window[1]] * 2)


@pytest.mark.parametrize(("data_set", "pair"), SET_PAIRS)
def test_a_pair_is_its_two_networks(data_set: str, pair: str) -> None:
    student, teacher = pair.split("__")
    alone = network(data_set, student)
    for stem in [f"{pair}__{m}_{k}" for m in METHODS for k in ("40k", "80k")]:
        cfg = pair_of(data_set, stem)
        assert f"configs/{data_set}/{teacher}.yaml" == cfg.TEACHER.CONFIG_FILE
        published = {"hrnet_w48": "fcn_hr48", "isanet_r101": "isanet_r1"}.get(teacher, teacher)
        assert published in cfg.TEACHER.WEIGHTS
        assert data_set.replace("context59", "context_59") in cfg.TEACHER.WEIGHTS
        assert DISTILLERS[cfg.DISTILL.METHOD].__name__.lower() == stem.split("__")[2][:-4]
        assert (10 if (cfg.DISTILL.METHOD, data_set) == ("CWD", "ade20k") else 5) == cfg.DISTILL.CWD.WEIGHT
        assert dict(alone.MODEL) == {**cfg.MODEL, "META_ARCHITECTURE": alone.MODEL.META_ARCHITECTURE}
        assert cfg.TEST.MODE == alone.TEST.MODE


def test_the_isanet_teacher_of_cityscapes_aligns_corners_and_its_student_does_not() -> None:
    for stem in PAIRS[3].split("__"):
        for s in SETS:
            wanted = (s, stem) == ("cityscapes", "isanet_r101")
            assert network(s, stem).MODEL.SEM_SEG_HEAD.ALIGN_CORNERS is wanted
    pair = pair_of("cityscapes", f"{PAIRS[3]}__bpkd_40k")
    assert pair.MODEL.SEM_SEG_HEAD.ALIGN_CORNERS is False
    assert config(pair.TEACHER.CONFIG_FILE).MODEL.SEM_SEG_HEAD.ALIGN_CORNERS is True


def test_networks_that_differ_between_the_sets() -> None:
    for s in SETS:
        norm = network(s, "deeplabv3plus_mv2").MODEL.MOBILENET_V2.NORM
        assert norm == ("SyncBN" if s == "cityscapes" else "BN")
    plain, deep = (network("cityscapes", f"pspnet_r18{x}").MODEL for x in ("b", ""))
    assert (plain.RESNET_V1C.DEEP_STEM, deep.RESNET_V1C.DEEP_STEM) == (False, True)
    wide, narrow = (network("cityscapes", f"deeplabv3plus_mv2{x}").MODEL for x in ("", "_c128"))
    assert (wide.SEM_SEG_HEAD.CHANNELS, narrow.SEM_SEG_HEAD.CHANNELS) == (512, 128)


@pytest.mark.parametrize("name", PAPER)
def test_weights_are_named_in_the_documentation(name: str) -> None:
    cfg = config(name)
    named = [w for w in (cfg.MODEL.BACKBONE.WEIGHTS, cfg.TEACHER.WEIGHTS) if w]
    assert ("_scratch_" in name) == (cfg.MODEL.BACKBONE.WEIGHTS == "")
    texts = [(ROOT / "docs" / f"{d}.md").read_text() for d in ("how_to/checkpoints", "reference/paper_settings")]
    for weights in named:
        assert Path(weights).parent == Path("checkpoints")
        assert any(f"`{Path(weights).stem}" in text for text in texts), weights


@pytest.mark.parametrize(
    "name", [n for n in FILES if re.search(r"__\w+__\w+\.yaml$", n) and Path(n).parent.name in SETS]
)
def test_a_method_file_has_few_lines(name: str) -> None:
    lines = [x for x in FILES[name].read_text().splitlines() if x.strip() and not x.lstrip().startswith("#")]
    assert len(lines) <= 8
