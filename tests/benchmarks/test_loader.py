"""benchmarks/loader.py at a tiny size: real samples of ours, a stand-in for mmsegmentation, a whole record."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import loader as tool
from benchmarks.peers import mmseg_pipeline as peer
from bpkd.data.augment import TrainAugmentation
from bpkd.data.mapper import TrainMapper

REDUCED = [255, *range(9), *[-1] * 245, 255]
PLAIN = [*range(9), *[-1] * 246, 255]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "LIKE", {k: ((48, 64), suffix) for k, (_, suffix) in tool.LIKE.items()})


def stand_in(augmentation: TrainAugmentation, *, reduce_zero: bool) -> Any:
    """Answers as mmsegmentation would, by our own mapper."""
    mapper = TrainMapper(augmentation, "BGR", REDUCED if reduce_zero else PLAIN)

    def run(item: dict[str, Any]) -> dict[str, Any]:
        found = mapper({"file_name": item["img_path"], "sem_seg_file_name": item["seg_map_path"]},
                       np.random.default_rng(0))  # fmt: skip
        truth = SimpleNamespace(data=found["sem_seg"][None])
        return {"inputs": found["image"], "data_samples": SimpleNamespace(gt_sem_seg=truth)}

    return run


def test_record_without_a_rival(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    assert tool.main(["--no-rival", "--files", "2", "--rounds", "2", "--cpu-time", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert [r["set"].split("_")[0] for r in record["rows"]] == ["ade20k", "cityscapes", "pascal"]
    assert [r["crop"] for r in record["rows"]] == [[512, 512], [512, 1024], [480, 480]]
    assert all(r["ours_images_s"] > 0 and "ratio" not in r and len(r["seconds"]["ours"]) == 2 for r in record["rows"])
    assert record["rows"][0]["files"].startswith("2 drawn, 64 x 48 jpg, ")
    setting = {"no_rival": True, "files": 2, "rounds": 2, "cpu_time": True, "threads": 1, "opts": []}
    assert record["setting"] == setting
    assert record["rival"] == {}
    assert capsys.readouterr().out.count("\n") == 5


@pytest.mark.parametrize("table", [REDUCED, PLAIN])
def test_files_are_read_alike_before_anything_is_timed(tmp_path: Path, table: list[int]) -> None:
    items = tool.draw_files(tmp_path, "cityscapes", 2, table)
    mapper = TrainMapper(TrainAugmentation((32, 32), (64, 48)), "RGB", table)
    peer.check_agreement(items, mapper, stand_in)
    label = mapper(items[0], np.random.default_rng(0))["sem_seg"]
    assert set(label.unique().tolist()) <= {*range(9), 255}

    def other(augmentation: TrainAugmentation, *, reduce_zero: bool) -> Any:
        return stand_in(augmentation, reduce_zero=not reduce_zero)

    with pytest.raises((RuntimeError, ValueError), match=r"cityscapes_0.*(reads others|outside the known)"):
        peer.check_agreement(items, mapper, other)


def test_labels_that_move_otherwise_are_mapped() -> None:
    item = {"file_name": "a.jpg", "sem_seg_file_name": "a.png"}
    void = [*range(11), 255, *[-1] * 243, 255]
    assert peer.their_item(item, void)["label_map"] == {11: 255}
    assert peer.their_item(item, PLAIN)["label_map"] is None
    reduced = peer.their_item(item, REDUCED)
    assert (reduced["reduce_zero_label"], reduced["label_map"]) == (True, None)


def test_ratio_is_that_of_the_rounds() -> None:
    """The machine is ten times slower in the second round: ours takes half in both."""
    row = tool.summarise({tool.OURS: [1.0, 10.0, 1.0], tool.THEIRS: [2.0, 20.0, 2.5]}, 4)
    assert row["ratio"] == 2.0
    assert row["quartiles"] == [2.0, 2.25]
    assert row["ours_images_s"] == 4.0
    assert row["mmsegmentation_images_s"] == 1.6


def test_both_see_every_file_as_often_and_take_turns() -> None:
    seen: list[tuple[str, int, int]] = []
    calls = {name: lambda at, i, name=name: seen.append((name, at, i)) for name in (tool.OURS, tool.THEIRS)}
    spent = tool.measure(calls, 3, 2, lambda: 0.0)
    assert spent == {tool.OURS: [0.0, 0.0], tool.THEIRS: [0.0, 0.0]}
    for name in calls:
        assert [s[1:] for s in seen if s[0] == name] == [(at, at % 3) for at in range(9)]
    firsts = [seen[i][0] for i in range(0, len(seen), 2)]
    assert {firsts.count(name) for name in calls} == {4, 5}


@pytest.mark.parametrize("options", [["--rounds", "1"], ["--files", "0"]])
def test_options_that_cannot_be_measured_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit):
        tool.parse(["--no-rival", *options])


def test_without_mmsegmentation_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(_: object) -> None:
        raise ImportError("mmsegmentation cannot be imported. Install it: python -m pip install ...")

    monkeypatch.setattr(tool, "import_mmseg", absent)
    with pytest.raises(SystemExit):
        tool.parse([])
    assert "pip install ... Give that folder as --peer-root" in capsys.readouterr().err


def test_own_files_and_settings_that_it_cannot_use_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="own_train: expected a set like ade20k, cityscapes, pascal"):
        tool.draw_files(tmp_path, "own_train", 1, PLAIN)
    with pytest.raises(ValueError, match="RESIZE_BOX"):
        tool.sides([], TrainMapper(TrainAugmentation((8, 8)), "RGB", PLAIN), rival=True)
    assert isinstance(tool.parse(["--no-rival", "INPUT.FLIP_PROB", "0.0"]), argparse.Namespace)


@pytest.mark.slow
def test_mmsegmentation_reads_and_resizes_alike(tmp_path: Path) -> None:
    pytest.importorskip("mmseg")
    for name, table in (("ade20k", REDUCED), ("cityscapes", PLAIN)):
        mapper = TrainMapper(TrainAugmentation((32, 32), (64, 48)), "RGB", table)
        items = tool.draw_files(tmp_path, name, 2, table)
        peer.check_agreement(items, mapper)
        theirs = peer.their_pipeline(mapper.augmentation, reduce_zero=peer.reduces_zero(table))
        image, label = peer.their_tensors(theirs(peer.their_item(items[0], table)))
        assert (image.dtype, label.dtype, image.shape[1:]) == (torch.uint8, torch.int64, label.shape)
