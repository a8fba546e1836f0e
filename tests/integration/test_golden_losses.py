"""dev/golden_losses.py: the committed losses of every distiller, and a comparison that sees a last bit."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "dev"))
import golden_losses as golden  # noqa: E402 - dev/ is no package

# Beside the teacher, which is trained for them.
FEW = ["teacher", "kd", "bpkd_safe"]


def test_every_distiller_is_among_the_cases() -> None:
    from bpkd.distillers import DISTILLERS

    methods = {opts[i + 1] for _, opts in golden.CASES.values() for i, x in enumerate(opts) if x == "DISTILL.METHOD"}
    assert set("+".join(methods).split("+")) >= {*DISTILLERS, "none"}
    assert {p.stem for p in golden.GOLDEN.glob("*.json")} == set(golden.CASES)
    assert sum(p.stat().st_size for p in golden.GOLDEN.iterdir()) < 200_000


def test_losses_are_the_committed_ones() -> None:
    want = golden.read(golden.GOLDEN, FEW)
    assert golden.check(want, golden.record(ROOT, FEW), tolerances=golden.TOLERANCES) == []


@pytest.mark.slow
def test_all_losses_are_the_committed_ones() -> None:
    want = golden.read(golden.GOLDEN, list(golden.CASES))
    assert golden.check(want, golden.record(ROOT, list(golden.CASES)), tolerances=golden.TOLERANCES) == []


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    values = {"total_loss": [3.0 - i / 100 for i in range(golden.STEPS)], "loss_ce": [1.0] * golden.STEPS}
    for name in ("old", "new"):
        golden.write({"kd": values}, tmp_path / name)
    return tmp_path / "old", tmp_path / "new"


def test_compare_sees_the_last_bit(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = two
    command = ["compare", str(old), str(new), "--cases", "kd"]
    assert golden.main(command) == 0
    assert "1 runs agree" in capsys.readouterr().out
    values = json.loads((new / "kd.json").read_text())
    values["loss_ce"][57] = math.nextafter(1.0, 2.0)
    golden.write({"kd": values}, new)
    assert golden.main(command) == 1
    assert "kd: loss_ce differs most at step 57: by 2.2e-16 of 1" in capsys.readouterr().out


def test_check_allows_the_tolerance_and_no_more(two: tuple[Path, Path]) -> None:
    old, new = (golden.read(folder, ["kd"]) for folder in two)
    few = golden.TOLERANCES["kd"]
    new["kd"]["total_loss"][99] *= 1 + few / 2
    assert golden.check(old, new, tolerances=golden.TOLERANCES) == []
    new["kd"]["total_loss"][99] *= 1 + 3 * few
    (line,) = golden.check(old, new, tolerances=golden.TOLERANCES)
    assert line.startswith("kd: total_loss differs most at step 99")
    new["kd"]["loss_ce"][3] = math.nan
    assert len(golden.check(old, new, tolerances=golden.TOLERANCES)) == 2
    del new["kd"]["loss_ce"]
    assert golden.check(old, new, tolerances={}) == ["kd: expected the terms total_loss, loss_ce, got total_loss"]


def test_compact_files_are_checked_at_every_tenth_step(two: tuple[Path, Path], tmp_path: Path) -> None:
    full = golden.read(two[0], ["kd"])
    golden.write(full, tmp_path / "compact", compact=True)
    compact = golden.read(tmp_path / "compact", ["kd"])
    assert {k: len(v) for k, v in compact["kd"].items()} == {"total_loss": 100, "loss_ce": 10}
    assert golden.check(compact, full, tolerances={"kd": 1e-8}) == []
    full["kd"]["loss_ce"][90] = 2.0
    (line,) = golden.check(compact, full, tolerances=golden.TOLERANCES)
    assert line.startswith("kd: loss_ce differs most at step 90: by 1 of 1")


def test_what_cannot_be_recorded_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main(["record", str(tmp_path), "--tree", str(tmp_path), "--cases", "kd"]) == 2
    assert golden.main(["compare", "no-such-commit", "HEAD", "--cases", "kd"]) == 2
    assert golden.main(["check", str(tmp_path), "--cases", "kd"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)
