"""tools/visualize.py with networks for instances: edges per level, masks of checkpoints side by side."""

from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.data import DatasetCatalog

from bpkd.analysis import plots
from bpkd.analysis.instances import instance_color
from bpkd.analysis.overlays import BODY
from bpkd.data.instances import label_masks
from bpkd.engine.launch import load_config
from bpkd.engine.predict import InstancePredictor
from bpkd.modeling import build_student
from tests.conftest import REPO
from tests.helpers.solov2_runs import SMALL, write_shapes

main = runpy.run_path(str(REPO / "tools" / "visualize.py"))["main"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shapes(tmp_path, count=2)
    for seed, run in enumerate(("first", "second")):
        out = tmp_path / run
        out.mkdir()
        (out / "config.yaml").write_text(SMALL.format(repo=REPO, root=tmp_path, out=out))
        torch.manual_seed(seed)
        model = build_student(load_config(str(out / "config.yaml")))
        torch.nn.init.normal_(model.ins_head.cate_pred.weight, std=0.3)
        torch.nn.init.normal_(model.ins_head.kernel_pred.weight, std=0.3)
        torch.save({"model": model.state_dict()}, out / "model_final.pth")
    return tmp_path


def colors_of(path: Path) -> set[tuple[int, ...]]:
    return set(map(tuple, cv2.imread(str(path))[..., ::-1].reshape(-1, 3).tolist()))


def test_masks_and_edges_of_two_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, runs = folder / "drawn", [str(folder / r / "model_final.pth") for r in ("first", "second")]
    images = ["--images", str(folder / "val"), "--output", str(out)]
    assert main([*images, "--labels", str(folder / "val.json"), "--weights", *runs, "--score", "0.0"]) == 0
    assert "wrote 2 images to" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {f"{i}_{what}.png" for i in (0, 1) for what in ("edges", "predictions")}
    assert {instance_color(0), instance_color(1)} <= colors_of(out / "0_predictions.png")  # the two objects
    assert {plots.WRONG_EDGE} <= colors_of(out / "0_edges.png")
    network = InstancePredictor(runs[0])
    found = network(folder / "val" / "0.png", 0.0)
    assert found.shape[1:] == (64, 80)
    assert len(found) > len(network(folder / "val" / "0.png", 2.0)) == 0


def test_edges_of_all_objects_without_weights(folder: Path) -> None:
    out = folder / "drawn"
    arguments = ["--images", str(folder / "val"), "--labels", str(folder / "val.json"), "--output", str(out)]
    assert main([*arguments, "--strides", "1", "8", "--kernel-size", "3"]) == 0
    assert {p.name for p in out.iterdir()} == {"0_edges.png", "1_edges.png"}
    assert {plots.WRONG_EDGE, BODY} <= colors_of(out / "0_edges.png")


def test_some_of_the_images_that_the_labels_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part, labels = folder / "part", ["--labels", str(folder / "val.json"), "--output", str(folder / "drawn")]
    part.mkdir()
    assert main(["--images", str(part), *labels]) == 2
    assert "expected images that" in (told := capsys.readouterr().err)
    assert "names (2, the first is 0.png), got none" in told
    (folder / "val" / "1.png").rename(part / "1.png")
    assert main(["--images", str(part), *labels]) == 0
    assert [p.name for p in (folder / "drawn").iterdir()] == ["1_edges.png"]
    assert main(["--images", str(folder / "val" / "0.png"), *labels]) == 0
    assert {p.name for p in (folder / "drawn").iterdir()} == {"0_edges.png", "1_edges.png"}


def test_levels_are_those_of_training(folder: Path) -> None:
    network = InstancePredictor(str(folder / "first" / "model_final.pth"))
    item = DatasetCatalog.get("shapes_val")[0]
    image, levels, canvas = network.levels(item)
    assert image.shape == (64, 80, 3)
    assert canvas == (64, 96)
    assert [size for _, _, size in levels] == [(g, g) for g in network.model.assigner.num_grids]
    truth = label_masks(item)
    assert sum(len(masks) for _, masks, _ in levels) >= len(truth) == 2
    assert all(any((m == t).all() for t in truth) for _, masks, _ in levels for m in masks)
    assert truth.sum((1, 2)).tolist() == [24 * 30, 400]


def test_labels_of_another_task_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--images", str(folder / "val"), "--weights", str(folder / "first" / "model_final.pth")]
    assert main([*arguments, "--labels", str(folder / "val")]) == 2
    assert "--labels: expected COCO's JSON for these --weights, got label maps" in capsys.readouterr().err
    assert label_masks({"height": 4, "width": 5, "annotations": []}).shape == (0, 4, 5)
