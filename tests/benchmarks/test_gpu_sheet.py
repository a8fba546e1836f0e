"""The GPU sheet's runner: limits, failures, crashes, resuming, its command line. The parts run in .ci/run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPO

sys.path[:0] = [p for p in (str(REPO), str(REPO / "tools")) if p not in sys.path]  # as the tool does

import gpu_sheet  # noqa: E402

from benchmarks.gpu_sheet import losses, profiles, step, train  # noqa: E402
from benchmarks.gpu_sheet.cli import load  # noqa: E402
from benchmarks.gpu_sheet.items import Goal, Item, Part, Row, Settings  # noqa: E402
from benchmarks.gpu_sheet.records import RecordError, locked  # noqa: E402
from benchmarks.gpu_sheet.report import report  # noqa: E402
from benchmarks.gpu_sheet.runner import Sheet  # noqa: E402


def passes(settings: Settings, seconds: float, *, value: float = 1.0) -> Row:
    del settings, seconds
    return {"value": value, "line": f"found {value:g}"}


def raises(settings: Settings, seconds: float) -> Row:
    raise ValueError("the kernel is wrong\nand more")


def sleeps(settings: Settings, seconds: float) -> Row:
    child = subprocess.Popen(["sleep", "1000"])  # that has to end with it
    settings.work.joinpath("pid").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(1000)
    return {}


def kills_itself(settings: Settings, seconds: float) -> Row:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fails(settings: Settings, seconds: float) -> Row:
    return {"failed": "too far apart", "apart": 0.5}


def counts(settings: Settings, seconds: float) -> Row:
    path = settings.work / "count"
    path.write_text(path.read_text() + "x" if path.exists() else "x")
    return {"line": path.read_text()}


def returns_seconds(settings: Settings, seconds: float) -> Row:
    return {"seconds": seconds}


def part(*items: Item, name: str = "trial", seconds: float = 60, **more: Any) -> Part:
    return Part(name, "A trial", seconds, lambda settings: list(items), **more)


def running_processes(work: Path) -> list[str]:
    """Returns the ids of the processes of `sleeps` that still run, zombies not counted."""
    stats = [Path("/proc") / pid / "stat" for pid in (work / "pid").read_text().split()]
    return [s.parent.name for s in stats if s.exists() and s.read_text().rpartition(") ")[2][0] != "Z"]


class Trial:
    """A sheet in a folder, and its lines of progress."""

    def __init__(self, folder: Path, *, tiny: bool = False) -> None:
        self.settings = Settings("cpu", tiny, folder / "out", folder / "work")
        self.lines: list[str] = []

    def run(self, *parts: Part, seconds: float = 540, resume: bool = False, again: Sequence[str] = ()) -> int:
        sheet = Sheet(self.settings, seconds=seconds, resume=resume, progress=self.lines.append, again=again)
        return sheet.run(parts)

    def record(self, name: str = "trial") -> Row:
        found: Row = json.loads((self.settings.out / f"{name}.json").read_text())
        return found

    def states(self, name: str = "trial") -> dict[str, str]:
        return {item: state["status"] for item, state in self.record(name)["items"].items()}


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def test_every_outcome_is_recorded_and_the_next_item_begins(trial: Trial) -> None:
    items = [Item("a", passes, 30), Item("b", raises, 30), Item("c", kills_itself, 30), Item("d", fails, 30)]
    assert trial.run(part(*items, Item("e", sleeps, 1), Item("f", passes, 30))) == 1
    assert trial.states() == {
        "a": "passed", "b": "failed", "c": "died", "d": "failed", "e": "too long", "f": "passed"
    }  # fmt: skip
    found = trial.record()["items"]
    assert found["b"]["error"] == "ValueError: the kernel is wrong"
    assert "in raises" in found["b"]["traceback"]
    assert found["c"]["error"] == "its process ended with status -9"
    assert found["d"] == {**found["d"], "error": "too far apart", "result": {"apart": 0.5}}
    assert found["e"]["error"].startswith("stopped after 1.")
    assert trial.lines[-1] == f"2 of 6 items passed; records: {trial.settings.out}"
    assert any(line.startswith("  trial: a: passed (") and line.endswith("s): found 1") for line in trial.lines)
    assert "in raises" in (trial.settings.out / "sheet.log").read_text()


def test_what_a_stopped_item_has_started_ends_with_it(trial: Trial) -> None:
    trial.run(part(Item("e", sleeps, 1)))
    assert not running_processes(trial.settings.work)


def test_a_second_call_goes_on_with_what_has_not_passed(trial: Trial) -> None:
    first = part(Item("a", counts, 30), Item("b", raises, 30))
    assert trial.run(first) == 1
    mended = part(Item("a", counts, 30), Item("b", passes, 30), Item("c", passes, 30))
    assert trial.run(mended, resume=True) == 0
    assert trial.states() == {"a": "passed", "b": "passed", "c": "passed"}
    assert trial.record()["items"]["a"]["result"]["line"] == "x"  # it ran once
    assert len(trial.record()["calls"]) == 2
    of = trial.record()["items"]["a"]["of"]
    assert (of["commit"], of["torch"]) == (trial.record()["environment"]["commit"], torch.__version__.split("+")[0])
    assert trial.run(mended, resume=True, again=["a"]) == 0
    assert trial.record()["items"]["a"]["result"]["line"] == "xx"
    assert trial.run(mended, resume=True, again=["trial"]) == 0
    assert trial.record()["items"]["a"]["result"]["line"] == "xxx"


def test_records_of_elsewhere_and_damaged_ones_are_refused_before_anything_runs(trial: Trial) -> None:
    parts = (part(Item("a", counts, 30)), part(Item("b", passes, 30), name="other"))
    assert trial.run(*parts) == 0
    whole = (trial.settings.out / "other.json").read_text()
    small = Trial(trial.settings.out.parent, tiny=True)
    with pytest.raises(RecordError, match=r"other.json: expected a record of .*'tiny': True.* Choose another OUT"):
        small.run(parts[1], resume=True)
    for text in ("", "{}", "[]", whole[:50]):
        (trial.settings.out / "other.json").write_text(text)
        with pytest.raises(RecordError, match=r"other.json: expected a record of the sheet, got .* Remove it"):
            trial.run(*parts, resume=True, again=["a"])
    assert (trial.settings.work / "count").read_text() == "x"


def test_a_second_call_into_the_same_folder_is_refused(trial: Trial) -> None:
    trial.settings.out.mkdir(parents=True)
    with locked(trial.settings.out), pytest.raises(RecordError, match="another call of the sheet is running there"):
        trial.run(part(Item("a", passes, 30)))


def test_a_part_ends_with_its_share_and_names_what_it_did_not_reach(trial: Trial) -> None:
    slow = part(Item("a", sleeps, 100), Item("b", passes, 30), seconds=60)
    last = part(Item("c", passes, 30), name="last")
    begin = time.monotonic()
    assert trial.run(slow, last, seconds=4) == 1  # two minutes are planned: each part gets two seconds
    assert time.monotonic() - begin < 20
    assert trial.states() == {"a": "too long", "b": "not reached"}
    assert trial.states("last") == {"c": "passed"}


def test_an_open_part_takes_what_the_others_leave(trial: Trial) -> None:
    trial.run(part(Item("a", returns_seconds, 1e9), seconds=0), part(name="later", seconds=60), seconds=540)
    assert trial.record()["items"]["a"]["result"]["seconds"] == pytest.approx(480, abs=30)


def test_items_wait_for_those_that_they_need(trial: Trial) -> None:
    items = [Item("b", passes, 30, needs=("a",)), Item("a", raises, 30), Item("d", passes, 30, needs=("c",))]
    trial.run(part(*items, Item("c", passes, 30), parallel=True))
    assert trial.states() == {"b": "not reached", "a": "failed", "d": "passed", "c": "passed"}
    assert trial.record()["items"]["b"]["error"] == "needs a"


def test_a_part_that_cannot_be_built_fails_and_the_next_begins(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.gpu_sheet.losses", None)  # as where an import of it fails
    assert trial.run(load("losses"), part(Item("a", passes, 30))) == 1
    assert trial.states("losses") == {"part": "failed"}
    assert "import of benchmarks.gpu_sheet.losses halted" in trial.record("losses")["items"]["part"]["error"]
    assert trial.states() == {"a": "passed"}


def test_goals_are_judged_but_not_in_small(tmp_path: Path) -> None:
    def goals(rows: dict[str, Row]) -> list[Goal]:
        return [Goal("small enough", rows["a"]["value"], 2), Goal("large enough", rows["a"]["value"], 2, at_least=True)]

    for tiny in (False, True):
        trial = Trial(tmp_path / str(tiny), tiny=tiny)
        assert trial.run(part(Item("a", partial(passes, value=1.5), 30), goals=goals)) == 0  # a missed goal is no fault
        found = [(g["goal"], g["limit"], g["met"]) for g in trial.record()["goals"]]
        assert found == ([] if tiny else [("small enough", "<= 2", True), ("large enough", ">= 2", False)])
        assert trial.lines[0 if tiny else -2].endswith("1 of 2 goals met") is not tiny


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_item_and_keeps_the_record(number: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import sys
sys.path[:0] = [{str(REPO)!r}, {str(REPO / "tools")!r}]
from pathlib import Path
from tests.benchmarks.test_gpu_sheet import Item, Trial, sleeps, part, passes
Trial(Path({str(tmp_path)!r})).run(part(Item("a", passes, 30), Item("b", sleeps, 100), Item("c", passes, 30)))
"""
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (tmp_path / "work" / "pid").exists() and time.monotonic() < end:
        time.sleep(0.1)
    child.send_signal(number)
    assert f"KeyboardInterrupt: {number.name}" in child.communicate(timeout=60)[1]
    found = json.loads((tmp_path / "out" / "trial.json").read_text())["items"]
    assert {name: state["status"] for name, state in found.items()} == {
        "a": "passed", "b": "stopped", "c": "not reached"
    }  # fmt: skip
    assert not running_processes(tmp_path / "work")


def test_a_killed_sheet_leaves_no_item_behind(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path[:0] = [{str(REPO)!r}, {str(REPO / "tools")!r}]
from pathlib import Path
from tests.benchmarks.test_gpu_sheet import Item, Trial, sleeps, part
Trial(Path({str(tmp_path)!r})).run(part(Item("b", sleeps, 100)))
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 120
    while not (tmp_path / "work" / "pid").exists() and time.monotonic() < end:
        time.sleep(0.1)
    child.kill()
    child.wait(60)
    item, started = (tmp_path / "work" / "pid").read_text().split()
    end = time.monotonic() + 30
    while item in running_processes(tmp_path / "work") and time.monotonic() < end:
        time.sleep(0.1)
    assert item not in running_processes(tmp_path / "work")
    os.kill(int(started), signal.SIGKILL)  # what the item had started itself


def test_a_device_that_does_not_compute_is_named_before_anything_runs(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.settings = Settings("nonsense", True, tmp_path / "out", tmp_path / "work")
    with pytest.raises(RecordError, match="--device nonsense: expected a device that computes, got: RuntimeError"):
        trial.run(part(Item("a", passes, 30)))
    assert not list((tmp_path / "out").glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes: expected a number above 0, got '0'."),
        (["--minutes", "nan"], "--minutes: expected a number above 0, got 'nan'."),
        (["--again", "step"], "--again: expected --resume with it"),
        (["--data", "."], "--data: expected a folder that holds camvid/train.txt, got ."),
        (["--peers", "."], "--peer-root: expected a folder that holds mmseg/, got ."),
        ([], "--data: expected the folder that holds camvid/, got none."),
        (["--only", "lossses"], "got 'lossses'. Did you mean losses?"),
        (["--only", "step"], "already holds records. Go on with --resume"),
    ],
)
def test_a_wrong_command_line_ends_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "step.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        gpu_sheet.parse([str(tmp_path), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_without_a_gpu_the_tool_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", str(REPO / "tools" / "gpu_sheet.py"), str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--only", "environment"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --device cuda: expected a device that computes, got: ")
    assert done.stderr.endswith("Without a GPU: --device cpu --tiny.\n")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_tables_of_records_and_of_none(trial: Trial, tmp_path: Path) -> None:
    trial.run(part(Item("a", passes, 30), Item("b", raises, 30)))
    shown = report(trial.settings.out, [part()])
    assert "| a | passed |" in shown
    assert "| b | failed |" in shown
    with pytest.raises(FileNotFoundError, match=r"expected records of the sheet \(trial.json\)"):
        report(tmp_path, [part()])


def test_the_ten_kernels_the_busy_share_and_the_gaps() -> None:
    spans = [(0.0, 10.0, "a"), (5.0, 20.0, "b"), (30.0, 40.0, "a"), (32.0, 35.0, "c")]
    busy, span, gaps = profiles.busy_share(spans)
    assert (busy, span) == (0.75, 40.0)
    assert gaps == [{"ms": 0.01, "after": "b", "before": "a"}]
    assert [k["kernel"] for k in profiles.longest(spans)] == ["a", "b", "c"]
    assert profiles.longest(spans)[0] == {"kernel": "a", "share": 20 / 38, "calls": 2}
    assert profiles.busy_share([]) == (0.0, 0.0, [])


def test_iterations_fill_the_time_that_is_left() -> None:
    seconds = {train.TEACHER: 0.1, train.STUDENT: 0.02, "distilled": 0.06}
    found = train.share_out(300.0, seconds)
    spent = found[train.TEACHER] * 0.1 + found[train.STUDENT] * (0.02 + 3 * 0.06)
    assert 280 < spent <= 300
    assert train.share_out(-5.0, seconds) == {train.TEACHER: 10, train.STUDENT: 10}


def test_goals_read_the_rows_that_the_parts_write() -> None:
    """The names that goals look up are those of the items: on a GPU a wrong one would lose the figure."""
    settings = Settings("cuda", False, Path(), Path())
    names = [item.name for item in losses.items(settings)]
    row: Row = {"without_graph": {}}
    assert {losses.title(shape, "float32") for shape in losses.SHAPES} <= set(names)
    shape = (1, 3, 4, 4)
    maps = losses.Maps(shape, losses.torch.float32, losses.torch.device("cpu"))
    calls = losses.variants(maps)
    row["rows"] = {name: {"device_ms": 1.0, "over_traffic": 2.0, "extra_mib": 3.0} for name in calls}
    row["ratios"] = {f"{a} over {b}": 0.5 for a, b in losses.pairs(calls)}
    goals = losses.goals(dict.fromkeys(names, row))
    assert len(goals) == 2 + len(losses.PRESETS) + 1 + 2 * len(losses.SHAPES)
    names = [item.name for item in step.items(settings)]
    rows = dict.fromkeys(names, {"rows": {"BPKD": {"ratio": 0.5}}, "busy": 0.9, "preset": "safe"})
    assert [goal.value for goal in step.goals(rows)] == [0.5, 2.0, 2.0, 0.9]
    assert len(train.goals({name: {"run": {"data_share": 0.1}} for name in train.RUNS})) == len(train.RUNS)
