"""benchmarks/harness.py: calls take turns, ratios are paired, tables and records hold what they are given."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import Times
from tests.conftest import REPO


def test_every_order_comes_in_its_turn() -> None:
    calls: list[str] = []
    times = harness.measure({name: lambda name=name: calls.append(name) for name in "abc"}, 6)
    assert [len(spent) for spent in times.ms.values()] == [6, 6, 6]
    rounds = ["".join(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert rounds[1:] == ["abc", "bca", "cab", "cba", "acb", "bac"]


def test_two_calls_alternate_who_is_first() -> None:
    calls: list[str] = []
    harness.measure({name: lambda name=name: calls.append(name) for name in "ab"}, 4)
    assert ["".join(calls[i : i + 2]) for i in range(2, 10, 2)] == ["ab", "ba", "ba", "ab"]


def test_rounds_end_with_the_time_but_not_before_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(harness.time, "monotonic", lambda: now[0])

    def timer(call: object) -> float:
        now[0] += 1.0
        return 1.0

    assert harness.in_turns({"a": None}, timer, 10, seconds=5.5) == {"a": [1.0] * 5}
    assert harness.in_turns({"a": None}, timer, 10, seconds=0.0, least=2) == {"a": [1.0] * 2}


def test_ratios_are_those_of_the_rounds() -> None:
    """The machine is ten times slower in the second round: the ratios are the same all the same."""
    times = Times({"a": [3.0, 30.0, 4.0], "b": [2.0, 20.0, 2.0]}, {"a": 5.0})
    assert times.ratios("a", "b") == [1.5, 1.5, 2.0]
    assert times.ratio("a", "b") == 1.5
    assert times.row("a") == {"median_ms": 4.0, "rounds": 3, "peak_mib": 5.0}
    assert times.row("b")["peak_mib"] is None


def test_quartiles_and_spread() -> None:
    assert harness.quartiles([0.0, 1.0, 2.0, 3.0, 4.0]) == [1.0, 3.0]
    assert harness.spread([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == [1.0, 4.0]


def test_table_leaves_cells_empty_without_a_value() -> None:
    columns = {"what": "{what}", "ms": "{ms:.1f}", "range": harness.pair_of("ends", ".2f"), "MiB": "{mib:.0f}"}
    rows = [{"what": "a", "ms": 1.25, "ends": [1, 2], "mib": None}, {"what": "b", "ms": 20.0}]
    assert harness.table(columns, rows).splitlines() == [
        "| what | ms | range | MiB |",
        "|---|---:|---|---:|",
        "| a | 1.2 | 1.00 - 2.00 |  |",
        "| b | 20.0 |  |  |",
    ]


def test_record_says_where_it_comes_from_but_no_places(tmp_path: Path) -> None:
    args = argparse.Namespace(rounds=3, json=tmp_path / "a.json", peer_root=tmp_path)
    record = harness.new_record(args, rival={"mmengine": "1"})
    harness.write_record(args.json, record)
    found = json.loads(args.json.read_text())
    assert found["environment"].keys() == {"commit", "versions", "hardware"}
    assert found["setting"] == {"rounds": 3}
    assert (found["rival"], found["rows"]) == ({"mmengine": "1"}, [])


def test_options_have_one_name_and_take_the_old_ones(capsys: pytest.CaptureFixture[str]) -> None:
    parser = harness.make_parser("What it does.", rounds=5, device="cpu", peers="a folder")
    args = harness.parse(parser, ["--repeats", "7", "--peer-path", "x"])
    assert (args.rounds, args.peer_root) == (7, Path("x"))
    for argv, message in (
        (["--rounds", "1"], "--rounds: expected at least 2"),
        (["--cpu-time", "--device", "auto"], "--cpu-time: expected --device cpu"),
    ):
        with pytest.raises(SystemExit) as caught:
            harness.parse(parser, argv)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


PEAKS = """
import torch
from benchmarks.harness import peak_mib
kept = []
calls = (lambda: torch.ones(2**24).sum(), lambda: None, lambda: kept.append(torch.ones(2**24)))
print(*map(peak_mib, calls), peak_mib(lambda: (kept.clear(), kept.append(torch.ones(2**24))), warm_up=True))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_peak_counts_what_a_call_allocates() -> None:
    # In a process of its own, as the benchmarks have it: here other tests' threads and memory would be counted.
    command = [sys.executable, "-c", PEAKS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPO)
    full, nothing, kept, replaced = map(float, done.stdout.split())
    assert 50 < full < 110
    assert nothing < 20
    assert kept > 110  # both calls' memory stays
    assert replaced < 20  # that of the first call is freed before the second takes as much
