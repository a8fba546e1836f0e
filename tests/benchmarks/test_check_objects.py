from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import check_objects
from bpkd.data.annotations import read_objects


def test_the_drawn_set_is_right_and_repeats(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        check_objects.write_set(tmp_path / name, 4, 40, 3)
        texts.append((tmp_path / name / "instances_train.json").read_text())
    assert texts[0] == texts[1]
    found = read_objects(tmp_path / "one" / "instances_train.json", tmp_path / "one" / "train")
    assert (found.total, len(found.images), found.notes) == (40, 4, ())


@pytest.mark.slow
def test_it_measures_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_objects.main(["--images", "6", "--objects", "30", "--json", str(tmp_path / "bench.json")]) == 0
    assert "| 6 | 30 |" in capsys.readouterr().out
    row = json.loads((tmp_path / "bench.json").read_text())["rows"][0]
    assert row["seconds"] >= row["cpu_seconds"] / row["cores"] > 0
    assert row["peak_mib"] > 100
