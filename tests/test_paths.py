from __future__ import annotations

from pathlib import Path

import pytest

from bpkd.errors import UserError
from bpkd.paths import as_written, expanded


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("$PLACE/a", "/place/a"),
        ("${PLACE}a", "/placea"),
        ("~/a", "/home/me/a"),
        ("a~b", "a~b"),
        ("a$$b", "a$b"),
        ("5$", "5$"),
        ("$5", "$5"),
        ("", ""),
        ("https://host/~me/$PLACE", "https://host/~me/$PLACE"),
        ("detectron2://ImageNet/R-50.pkl", "detectron2://ImageNet/R-50.pkl"),
    ],
)
def test_what_a_path_becomes(text: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/place")
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded(text, "KEY") == path


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("$GONE/a", "'GONE'"),
        ("${GONE}", "'GONE'"),
        ("$EMPTY/a", "'EMPTY'"),
        ("${A:-b}", "'A:-b'"),
        ("~no_one/a", "no_one"),
    ],
)
def test_what_cannot_be_replaced_is_refused(text: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GONE", raising=False)
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(UserError, match=f"^KEY: .*{word}"):
        expanded(text, "KEY")


def test_a_path_comes_back_as_it_is() -> None:
    assert expanded(as_written(Path("/runs/5$HOME")), "KEY") == "/runs/5$HOME"


def test_a_file_that_begins_with_a_tilde_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~backup.pth").touch()
    assert expanded("~backup.pth", "KEY") == "~backup.pth"
