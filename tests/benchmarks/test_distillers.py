"""benchmarks/distillers.py at a tiny size: real steps of every variant, paired costs, a whole record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import distillers as tool
from benchmarks.harness import Times

TINY = ["--size", "32", "--batch", "2", "--rounds", "2", "--device", "cpu"]


def test_record_holds_every_variant_and_what_the_numbers_depend_on(tmp_path: Path, capsys) -> None:  # noqa: ANN001
    assert tool.main([*TINY, "--json", str(tmp_path / "bench.json")]) == 0
    record = json.loads((tmp_path / "bench.json").read_text())
    rows = record["rows"]
    assert [r["variant"] for r in rows] == [tool.ALONE, tool.BASE, *tool.METHODS]
    assert all(r["median_ms"] > 0 and r["rounds"] == 2 and r["peak_mib"] is None for r in rows)
    assert all(r["spread_ms"][0] <= r["median_ms"] <= r["spread_ms"][1] for r in rows)
    assert torch.__version__.startswith(record["environment"]["versions"]["torch"])
    assert record["environment"].keys() == {"commit", "versions", "hardware"}
    assert record["setting"]["config_file"] == "projects/BPKD/configs/camvid/small__bpkd.yaml"
    assert record["setting"]["size"] == 32
    assert "json" not in record["setting"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(rows)
    assert {line.count("|") for line in lines} == {8}


def test_all_start_from_one_student_and_each_moves_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    runner = tool.runner
    monkeypatch.setattr(tool, "runner", lambda trainer: seen.append(trainer) or runner(trainer))
    args = tool.argparse.Namespace(
        config_file=str(tool.PAIR), methods=["KD", "SKDS"], size=32, batch=2, device="cpu", opts=[]
    )
    steps = tool.steps(args)
    assert {t.model.student.train_size for t in seen} == {(32, 32)}  # not the config's crop
    first = [t.model.student.state_dict() for t in seen]
    before = {k: v.clone() for k, v in first[0].items()}
    assert all(torch.equal(v, state[k]) for state in first for k, v in before.items())
    steps["SKDS"]()
    moved = [any(not torch.equal(v, state[k]) for k, v in before.items()) for state in first]
    assert moved == [False, False, False, True]
    assert {k for k in seen[-1].values if k.startswith("loss_kd_")} == {
        "loss_kd_pixel", "loss_kd_pair", "loss_kd_adv", "loss_kd_critic",
    }  # fmt: skip
    steps[tool.ALONE]()
    steps[tool.BASE]()
    assert seen[0].values == pytest.approx(seen[1].values)  # the teacher is asked, nothing is compared
    assert all(p.grad is None for p in seen[-1].model.parameters())


def test_costs_are_differences_within_a_round() -> None:
    """The machine is ten times slower in the second and third round: the paired cost is 1 and 2 all the same."""
    times = Times({tool.ALONE: [1.0, 8.0, 9.0], tool.BASE: [2.0, 20.0, 20.0], "KD": [3.0, 21.0, 22.0]}, {"KD": 7.0})
    alone, base, kd = tool.summarise(times)
    assert alone["extra_ms"] == -11.0
    assert (base["extra_ms"], base["extra_percent"]) == (0.0, 0.0)
    assert kd["extra_ms"] == 1.0
    assert kd["extra_percent"] == pytest.approx(10.0)
    assert kd["median_ms"] == 21.0
    assert kd["peak_mib"] == 7.0


@pytest.mark.parametrize(
    "options",
    [["--rounds", "1"], ["--batch", "1"], ["--cpu-time", "--device", "auto"], ["--cpu-time", "--device", "cuda"]],
)
def test_options_that_cannot_be_measured_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main([*TINY, *options])
