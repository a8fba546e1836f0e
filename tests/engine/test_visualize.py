"""tools/visualize.py and dev/draw_metrics.py: pictures of edges, predictions and errors, or a plain error."""

from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bpkd.analysis import plots
from bpkd.analysis.overlays import BODY, level_masks, tinted
from bpkd.data.procedural import CLASSES, make_scene
from bpkd.engine.launch import load_config
from bpkd.engine.predict import Predictor
from bpkd.functional import class_edge_mask
from bpkd.modeling import build_student
from tests.conftest import REPO
from tests.helpers.engine_runs import TINY

main = runpy.run_path(str(REPO / "tools" / "visualize.py"))["main"]
COUNT = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, labels, and two runs' folders with config and weights."""
    for i in range(COUNT):
        scene = make_scene(0, i, 48, 64)
        for name, pixels in (("images", scene.image[..., ::-1]), ("labels", scene.labels)):
            (tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), pixels)
    for seed, run in enumerate(("first", "second")):
        out = tmp_path / run
        out.mkdir()
        (out / "config.yaml").write_text(TINY % len(CLASSES))
        torch.manual_seed(seed)
        model = build_student(load_config(str(out / "config.yaml"), ["INPUT.TEST_BOX", (32, 32)]))
        torch.save({"model": model.state_dict()}, out / "model_final.pth")
    return tmp_path


def test_edges_without_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "drawn"
    arguments = ["--images", str(folder / "images/0.png"), "--labels", str(folder / "labels/0.png")]
    assert main([*arguments, "--output", str(out)]) == 0
    assert "wrote 1 image to" in capsys.readouterr().out
    assert [p.name for p in out.iterdir()] == ["0_edges.png"]
    drawn = cv2.imread(str(out / "0_edges.png"))
    assert drawn.std() > 10
    seen = set(map(tuple, drawn[..., ::-1].reshape(-1, 3).tolist()))
    assert {plots.WRONG_EDGE, BODY} <= seen


def test_images_of_one_stem_and_a_second_call(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pictures do not replace each other, and those of the first call are no images of the second."""
    pixels = cv2.imread(str(folder / "images/0.png"))
    cv2.imwrite(str(folder / "images/0.BMP"), pixels)
    (folder / "images/1.heic").write_bytes(b"x")
    (folder / "images/._0.png").write_bytes(b"x")
    out = folder / "images" / "drawn"
    arguments = ["--images", str(folder / "images"), "--weights", str(folder / "first/model_final.pth")]
    for _ in range(2):
        assert main([*arguments, "--output", str(out)]) == 0
        names = [f"{name}_{end}.png" for name in ("0.BMP", "0.png", "1") for end in ("first_ids", "predictions")]
        assert sorted(p.name for p in out.iterdir()) == sorted(names)
    assert ".heic (1)" in caplog.text


def test_predictions_and_errors_of_two_checkpoints(folder: Path) -> None:
    out = folder / "drawn"
    runs = [str(folder / r / "model_final.pth") for r in ("first", "second")]
    arguments = ["--images", str(folder / "images"), "--weights", *runs, "--output", str(out)]
    assert main(arguments) == 0
    names = {p.name for p in out.iterdir()}
    assert names == {f"{i}_{n}" for i in range(COUNT) for n in ("predictions.png", "first_ids.png", "second_ids.png")}
    ids = cv2.imread(str(out / "1_second_ids.png"), cv2.IMREAD_UNCHANGED)
    network = Predictor(runs[1])
    assert (ids == network(folder / "images" / "1.png")).all()
    assert ids.shape == (48, 64)
    resized = Predictor(runs[1], opts=["INPUT.TEST_BOX", "(32, 32)"])(folder / "images" / "1.png")
    assert resized.shape == (48, 64)
    assert (resized != ids).any()  # another test size, another answer
    plain = cv2.imread(str(out / "0_predictions.png"))
    assert main([*arguments, "--labels", str(folder / "labels")]) == 0
    assert (out / "1_edges.png").is_file()
    drawn = cv2.imread(str(out / "0_predictions.png"))
    assert drawn.shape != plain.shape
    assert list(plots.WRONG_EDGE) in drawn[..., ::-1].reshape(-1, 3).tolist()


def test_plain_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(*args: str) -> str:
        assert main(["--output", str(folder / "drawn"), *args]) == 2
        return capsys.readouterr().err

    images, labels, weights = (str(folder / n) for n in ("images", "labels", "first/model_final.pth"))
    assert "none.pth: no such file" in message("--images", images, "--weights", str(folder / "none.pth"))
    assert "expected an image, or a folder" in message("--images", str(folder / "first"), "--weights", weights)
    (folder / "first" / "config.yaml").unlink()
    assert "config.yaml: no such file. Name the config of" in message("--images", images, "--weights", weights)
    cv2.imwrite(f"{labels}/1.png", np.full((9, 9), 1, np.uint8))
    line = message("--images", images, "--labels", labels)
    assert "error: 1: " in line
    assert "image 48x64, labels 9x9: sizes differ" in line
    cv2.imwrite(f"{labels}/0.png", np.full((48, 64), 255, np.uint8))
    assert "error: 0: expected labels with a class" in message("--images", images, "--labels", labels)
    (folder / "labels" / "0.png").unlink()
    assert "1 of 2 images have no label: 0" in message("--images", images, "--labels", labels)
    for wrong in ([], ["--weights", weights, "--config-file", "a", "b"]):
        with pytest.raises(SystemExit):
            main(["--images", images, *wrong])


def test_levels_are_the_losss_own_masks() -> None:
    label = make_scene(0, 3, 48, 64).labels
    (got,) = level_masks(label, 7, [8], ignore_index=255, ignore_mode="opaque")
    want = class_edge_mask(torch.from_numpy(label).long()[None], len(CLASSES), 7, (6, 8))
    assert (got == want[0].amax(0).numpy()).all()
    image = np.full((48, 64, 3), 100, np.uint8)
    assert (tinted(image, np.ones((6, 8), np.float32), BODY) == BODY).all()
    assert (tinted(image, np.zeros((6, 8), np.float32), BODY) == plots.dimmed(image)).all()


def test_the_metrics_picture_is_made_by_its_tool(tmp_path: Path) -> None:
    tool = runpy.run_path(str(REPO / "dev" / "draw_metrics.py"))
    assert tool["main"]([str(tmp_path / "metrics.png")]) == 0
    drawn, kept = (cv2.imread(str(p)) for p in (tmp_path / "metrics.png", REPO / "docs/images/metrics.png"))
    assert drawn.shape == kept.shape
    assert np.abs(drawn.astype(int) - kept).mean() < 5  # fonts may differ
