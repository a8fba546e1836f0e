"""``~`` and environment variables in configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

from bpkd.config import get_bpkd_cfg, read_config
from bpkd.config.paths import PATH_KEYS

ENDS = ("ROOT", "DIR", "WEIGHTS", "_FILE", "EXPORTED", "CACHE", "_JSON", "_IMAGES", "_MASKS")


def texts(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= texts(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def test_every_key_that_holds_a_path_is_declared() -> None:
    assert {key for key in texts(get_bpkd_cfg()) if key.endswith(ENDS)} - {"DATALOADER.EDGE_MASKS"} == set(PATH_KEYS)


@pytest.mark.parametrize("key", PATH_KEYS)
def test_a_variable_in_each_of_them(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/place")
    (tmp_path / "c.yaml").write_text("SEED: 1\n")
    cfg: Any = read_config(str(tmp_path / "c.yaml"), [key, "${PLACE}/x"])
    for part in key.split("."):
        cfg = cfg[part]
    assert cfg == "/place/x"
    monkeypatch.delenv("PLACE")
    with pytest.raises(ValueError, match=rf"{key}: .*'PLACE'"):
        read_config(str(tmp_path / "c.yaml"), [key, "${PLACE}/x"])


def test_further_teachers_and_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/place")
    text = "TEACHER: {OTHERS: [{WEIGHTS: $PLACE/a.pth, AMP: bf16}]}\nOUTPUT_DIR: $PLACE/run\n"
    (tmp_path / "c.yaml").write_text(text)
    cfg = read_config(str(tmp_path / "c.yaml"))
    assert cfg.TEACHER.OTHERS == [{"WEIGHTS": "/place/a.pth", "AMP": "bf16"}]
    assert "OUTPUT_DIR: /place/run" in cfg.dump()


def test_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute one, and one beside a file that was itself found by a variable."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "root.yaml").write_text("SEED: 7\n")
    (tmp_path / "far" / "middle.yaml").write_text("_BASE_: root.yaml\n")
    (tmp_path / "c.yaml").write_text("_BASE_: $FAR/middle.yaml\n")
    monkeypatch.setenv("FAR", str(tmp_path / "far"))
    assert read_config(str(tmp_path / "c.yaml")).SEED == 7
    monkeypatch.setenv("FAR", "far")
    assert read_config(str(tmp_path / "c.yaml")).SEED == 7
    monkeypatch.delenv("FAR")
    with pytest.raises(ValueError, match=r"_BASE_: .*'FAR'"):
        read_config(str(tmp_path / "c.yaml"))
