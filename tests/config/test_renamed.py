"""Old names of config keys: read from files, pairs, lists and records, with one warning per key."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpkd.config import read_config, rename_flat, rename_tree
from bpkd.config.renamed import RENAMED, _warn

OLD = """
VERSION: 2
TEACHER:
  FAST: fold
  OTHERS: [{CONFIG_FILE: a.yaml, FAST: auto}]
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    _warn.cache_clear()
    yield
    _warn.cache_clear()


def test_an_old_file_is_read_and_warned_of_once(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    with pytest.warns(FutureWarning, match=r"TEACHER\.FAST is now TEACHER\.OPTIMIZE"):
        cfg = read_config(str(path))
    assert cfg.TEACHER.OPTIMIZE == "fold"
    assert cfg.TEACHER.OTHERS == [{"CONFIG_FILE": "a.yaml", "OPTIMIZE": "auto"}]
    assert "FAST" not in cfg.TEACHER
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_config(str(path))


def test_old_pairs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("VERSION: 2\n")
    opts = ["TEACHER.FAST", "auto", "TEACHER.OTHERS", "[{'FAST': 'fold'}]"]
    with pytest.warns(FutureWarning):
        cfg = read_config(str(path), opts)
    assert cfg.TEACHER.OPTIMIZE == "auto"
    assert cfg.TEACHER.OTHERS == [{"OPTIMIZE": "fold"}]


def test_records_are_read_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rename_tree({"TEACHER": {"FAST": "off", "AMP": "bf16"}}, warn=False) == {
            "TEACHER": {"OPTIMIZE": "off", "AMP": "bf16"}
        }
        flat = {"TEACHER.FAST": "off", "TEACHER.OTHERS[0].FAST": "auto", "TEACHER.OTHERS[0] share": 0.5, "SEED": 1}
        assert rename_flat(flat) == {
            "TEACHER.OPTIMIZE": "off", "TEACHER.OTHERS[0].OPTIMIZE": "auto", "TEACHER.OTHERS[0] share": 0.5, "SEED": 1
        }  # fmt: skip


def test_no_new_name_is_an_old_one() -> None:
    assert not set(RENAMED) & set(RENAMED.values())
