"""Configs and records that earlier trees wrote load, and mean what they meant (tests/golden/configs)."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bpkd.analysis.records import KEYS, read_records
from bpkd.analysis.report import table_rows
from bpkd.analysis.statement import report_text
from bpkd.config import read_config
from bpkd.engine import load_config

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "configs"
DUMPS = sorted(GOLDEN.glob("*.yaml"))
RECORDS = sorted(GOLDEN.glob("*.run.json"))
RESOLVED = json.loads((GOLDEN / "resolved.json").read_text())

# Old key -> the key that holds its value now.
RENAMED = {"TEACHER.FAST": "TEACHER.OPTIMIZE"}
# Old keys that are gone; a file that has them at their old default loads.
GONE = {"DISTILL.SKDS.POOL_KERNEL", "DISTILL.SKDS.DETACH_NORM", "DISTILL.CIRKD.LEGACY_ENQUEUE"}
# Keys that a preset fills: -1 and "" meant so, None does now.
OPEN = {
    "SKDS": ("PIXEL_WEIGHT", "PAIR_WEIGHT", "ADV_WEIGHT", "CRITIC_WEIGHT", "CRITIC_OPTIMIZER"),
    "IFVD": ("PIXEL_WEIGHT", "IFV_WEIGHT", "ADV_WEIGHT", "ADV_LOSS"),
    "CIRKD": ("KD_WEIGHT", "MINI_BATCH_WEIGHT", "PIXEL_WEIGHT", "REGION_WEIGHT", "MAX_GIGABYTES"),
    "BPKD": ("EDGE_WEIGHT", "BODY_WEIGHT", "NORMALIZER", "PRE_MASK", "RAMP_ITERS"),
}
PRESETS = {
    "default": "recommended",
    "safe": "recommended",
    "instances": "recommended_instance",
    "author": "author_code",
}
# (old key, old value as JSON) -> the value that means the same now.
SAME: dict[tuple[str, str], Any] = {
    (f"DISTILL.{name}.{key}", empty): None
    for name, keys in OPEN.items()
    for key in keys
    for empty in ("-1", "-1.0", '""')
}
SAME["DISTILL.BPKD.NORMALIZER", '"cells"'] = "positions"
SAME |= {(f"DISTILL.{name}.PRESET", json.dumps(old)): new for name in OPEN for old, new in PRESETS.items()}

# Defaults that are others now: all image formats that are read are listed; 255 is ignored as before, after a check.
CHANGED = {"DATASETS.FOLDER.IMAGE_SUFFIXES": [], "DATASETS.FOLDER.IGNORE_INDEX": -1}


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def differences(old: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Returns a line per old value that is another one now; tuples and lists are the same in a config."""
    lines = []
    for key, value in old.items():
        if key in GONE:
            continue
        want = SAME.get((key, json.dumps(value)), value)
        got = now.get(RENAMED.get(key, key), "no such key")
        if json.dumps(got) != json.dumps(want):
            lines.append(f"{key}: expected {want!r}, got {got!r}")
    return lines


def test_differences_are_found() -> None:
    assert differences({"A": [1, 2], "B": 1.0}, {"A": (1, 2), "B": 1.0, "C": 3}) == []
    assert differences({"A": 1, "B": 1}, {"A": 2}) == ["A: expected 1, got 2", "B: expected 1, got 'no such key'"]


@pytest.mark.parametrize("path", DUMPS, ids=lambda p: p.stem)
def test_the_config_of_an_old_run_means_what_it_meant(path: Path) -> None:
    written = flat(yaml.safe_load(path.read_text()))
    assert len(written) > 350
    assert differences(written, flat(read_config(str(path)))) == []
    cfg = load_config(str(path))  # with all checks
    assert written["DISTILL.METHOD"] == cfg.DISTILL.METHOD
    assert differences(written, flat(cfg)) == []


@functools.cache
def group(folder: str) -> list[str]:
    return [name for name in RESOLVED["files"] if str(Path(name).parent) == folder]


@pytest.mark.parametrize("folder", sorted({str(Path(name).parent) for name in RESOLVED["files"]}))
def test_old_yaml_files_mean_what_they_meant(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is gone or has moved is a config that a user's command no longer finds."""
    monkeypatch.chdir(ROOT)
    for name in group(folder):
        own = dict(RESOLVED["values"][i] for i in RESOLVED["files"][name])
        assert differences({**RESOLVED["defaults"], **CHANGED, **own}, flat(read_config(name))) == [], name


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.name)
def test_old_records_are_read_with_all_their_figures(path: Path) -> None:
    (record,) = read_records([path])
    assert record == json.loads(path.read_text())
    assert set(KEYS) <= record.keys()
    header, (row,) = table_rows([record], trimap_width=3)
    cells = dict(zip(header, row, strict=True))
    title, figure = ("mask AP", "AP") if path.name.startswith("instance") else ("mIoU", "mIoU")
    assert cells[title] == f"{record['metrics'][figure]:.2f}"
    assert cells["params M"] == f"{record['params_m']:.2f}"


def test_the_config_in_an_old_record_loads(tmp_path: Path) -> None:
    for path in RECORDS:
        (tmp_path / "config.yaml").write_text(json.loads(path.read_text())["config"])
        assert differences(flat(yaml.safe_load((tmp_path / "config.yaml").read_text())),
                           flat(read_config(str(tmp_path / "config.yaml")))) == []  # fmt: skip


@pytest.mark.parametrize("name", ["camvid_compare", "nuclei_compare", "quickstart", "networks/hrnet"])
def test_published_records_make_their_report(name: str) -> None:
    records = read_records([ROOT / "projects" / "BPKD" / "results" / f"{name}.json"])
    text = report_text(records, trimap_width=3)
    score = "AP" if "nuclei" in name else "mIoU"
    teacher = next(r["metrics"][score] for r in records if r["method"] == "teacher")
    assert f"{teacher:.2f}" in text
