"""benchmarks/compare_commits.py: both trees train the same steps side by side; commits are checked out and removed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import compare_commits as tool
from tests.conftest import REPO

TINY = ["--rounds", "2", "--starts", "2", "--steps", "1"]
SMALL = ["INPUT.CROP_SIZE", "[32,32]", "SOLVER.IMS_PER_BATCH", "2"]


def test_a_tree_beside_itself_takes_the_same_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ratio.json"
    assert tool.main([str(REPO), str(REPO), *TINY, "--json", str(path), *SMALL]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["method"], row["rounds"], len(row["starts"]), len(row["ratios"])) == ("BPKD", 4, 2, 4)
    assert row["loss_apart"] == 0  # the same weights, images and random numbers
    assert row["old_ms"] > 0
    assert row["interval"][0] <= row["ratio"] <= row["interval"][1]
    assert capsys.readouterr().out.startswith("| method | old ms | new ms | new / old |")


def test_what_cannot_be_compared_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["no-such-commit", str(REPO), *TINY]) == 1
    error = capsys.readouterr().err
    assert error == "error: no-such-commit: expected a folder or a commit of this repository, got neither.\n"
    (tmp_path / "empty").mkdir()
    assert tool.main([str(tmp_path / "empty"), str(REPO), *TINY]) == 1
    assert f"error: {tmp_path / 'empty'}: " in capsys.readouterr().err


def test_interval_of_the_median_by_order() -> None:
    """Of 100 values it lies between the 40th and the 61st, as in tables of the sign test."""
    assert tool.interval([float(i) for i in range(100, 0, -1)]) == [41.0, 60.0]
    assert tool.interval([2.0, 1.0, 3.0]) == [1.0, 3.0]


def git(root: Path, *arguments: str) -> None:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="commits are checked out with git")
def test_a_commit_is_checked_out_with_the_library_of_equal_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = tmp_path / "bpkd" / "functional" / "native"
    native.mkdir(parents=True)
    (native / "a.cpp").write_text("int a;")
    (tmp_path / ".gitignore").write_text("*.so")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    (native / "_base.so").write_text("built")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    with tool.checked_out("HEAD") as tree:
        assert tree != tmp_path
        assert (tree / "bpkd" / "functional" / "native" / "_base.so").read_text() == "built"
    assert not tree.exists()
    (native / "a.cpp").write_text("int b;")  # not what the library of that commit would be
    with tool.checked_out("HEAD") as tree:
        assert not list(tree.rglob("*.so"))
    listed = subprocess.run(["git", "-C", str(tmp_path), "worktree", "list"], capture_output=True, text=True).stdout
    assert len(listed.splitlines()) == 1
