"""tools/benchmark.py at a tiny size: real steps and forward passes, paired ratios, whole records, tables from them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bpkd.functional import channel_kd
from bpkd.modeling import segmentation_loss

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tools") not in sys.path:
    sys.path.append(str(ROOT / "tools"))
import benchmark as tool  # noqa: E402
import benchmark_parts as parts  # noqa: E402
from benchmark_distillers import ALONE, BASE  # noqa: E402

TINY = [
    "--size",
    "32",
    "--batch",
    "2",
    "--rounds",
    "2",
    "--device",
    "cpu",
    "--methods",
    "KD",
    "BPKD",
    "--image-size",
    "64",
    "96",
]
DATA = ["--json", "unused.json", "DATASETS.TRAIN", "('procedural_train',)"]  # an option ends --methods, then pairs


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # TEACHER.CONFIG_FILE is relative to it


def run(tmp_path: Path, *argv: str) -> dict[str, Any]:
    path = tmp_path / "bench.json"
    assert tool.main([*TINY, "--json", str(path), *argv]) == 0
    return json.loads(path.read_text())


def test_step_has_every_variant_and_the_share_of_loading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = run(tmp_path, "--parts", "training step", "--cpu-time", "DATASETS.TRAIN", "('procedural_train',)")
    rows = {row["variant"]: row for row in record["rows"]}
    assert list(rows) == [ALONE, BASE, "KD", "BPKD", parts.PREPARED, parts.RECORDED, parts.LOADING]
    assert all(row["rounds"] == 2 and row["median_ms"] > 0 and row["against"] == BASE for row in rows.values())
    assert rows[BASE]["ratio"] == 1.0
    assert 0 < rows[parts.LOADING]["ratio"] < 1
    assert rows["KD"]["images_s"] == pytest.approx(2e3 / rows["KD"]["median_ms"])
    assert {"environment", "rival", "load", "setting", "shapes"} <= record.keys()
    assert not {"json", "peer_path", "config_file", "opts"} & record["setting"].keys()
    printed = capsys.readouterr().out
    assert tool.main(["--tables", str(tmp_path / "bench.json")]) == 0
    again = capsys.readouterr().out
    assert again == printed
    assert f"commit {record['environment']['commit']}" in again
    assert "projects/BPKD/configs/camvid/small__bpkd.yaml, 2 images of 32 x 32" in again
    if not torch.cuda.is_available():
        assert "| on a GPU | not measured: no accelerator was at hand |" in again
    assert len({line.count("|") for line in again.splitlines() if line.startswith("|")}) == 1


def test_loading_is_left_out_where_there_are_no_files(tmp_path: Path) -> None:
    args = tool.parse([*TINY, *DATA[:2], "DATASETS.ROOT", str(tmp_path)])
    assert parts.loading_call(args) == {}


def test_teacher_forms_agree_and_plain_is_the_measure(tmp_path: Path) -> None:
    record = run(tmp_path, "--parts", "teacher")
    rows = {row["variant"]: row for row in record["rows"]}
    assert list(rows)[:2] == [parts.GRAPH, parts.PLAIN]
    assert rows[parts.PLAIN]["scores_apart"] == 0
    assert rows["inference_mode"]["scores_apart"] == 0
    assert 0 < rows["fold+channels_last"]["scores_apart"] < 1e-4
    assert 1e-4 < rows["fold+channels_last+bf16"]["scores_apart"] < 0.2


def test_inference_forms_agree(tmp_path: Path) -> None:
    record = run(tmp_path, "--parts", "whole image", "sliding window")
    rows = [(row["part"], row["variant"]) for row in record["rows"]]
    assert ("whole image", "exported (torch.export)") in rows
    assert rows[-2:] == [("sliding window", "1 at a time"), ("sliding window", "4 at a time")]
    assert all(row["ratio"] is None and row["scores_apart"] < 0.2 for row in record["rows"])  # no mmsegmentation here


def test_scores_that_differ_are_not_timed() -> None:
    x = torch.randn(1, 3, 4, 4)
    assert tool.scores_apart({"plain": lambda: x, "bf16": lambda: x + 0.1 * x.std()}, "plain")["bf16"] < 0.11
    for other in (x + 0.1, x * float("nan")):
        with pytest.raises(RuntimeError, match="fast: expected the scores of plain, differ by"):
            tool.scores_apart({"plain": lambda: x, "fast": lambda other=other: other}, "plain")


def test_ratios_are_paired_and_loading_is_a_share() -> None:
    """The machine is ten times slower in the second round: the ratios are the same all the same."""
    times = {
        "base": [(2.0, None), (20.0, None)],
        "a": [(3.0, 4.0), (30.0, 5.0)],
        parts.LOADING: [(2.0, None), (20.0, None)],
    }
    base, a, loading = tool.summarise(times, "base", 4)
    assert (base["ratio"], a["ratio"], loading["ratio"]) == (1.0, 1.5, 0.5)
    assert a["ratio_spread"] == [1.5, 1.5]
    assert a["peak_mib"] == 5.0
    assert base["images_s"] == pytest.approx(4000 / 11)
    alone = tool.summarise({"a": times["a"]}, "base", 4)
    assert (alone[0]["ratio"], alone[0]["against"]) == (None, None)
    assert "share 50.0 %" in "\n".join(tool.table([base, a, loading]))


PEAKS = """
import sys, torch
sys.path.append(sys.argv[1])
import benchmark as tool
calls = {"64 MiB": lambda: torch.ones(2**24).sum(), "nothing": lambda: None}
tool.PARTS["teacher"] = (lambda _: calls, "", False, "batch")
print(*(tool.own_peak("teacher", name, None) for name in calls))
"""


def test_peak_counts_what_a_call_allocates() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux")
    # A process of its own, as the tool has it: here other tests' threads and memory would be counted.
    command = [sys.executable, "-c", PEAKS, str(ROOT / "tools")]
    full, nothing = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert 50 < full < 110
    assert abs(nothing) < 20


def test_the_rivals_losses_are_those_that_they_are_said_to_be() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 8, 8)
    torch.testing.assert_close(parts.channel_wise(student, teacher), channel_kd(student, teacher))
    labels = torch.randint(0, 5, (2, 32, 32))
    labels[:, :4] = 255
    torch.testing.assert_close(parts.cross_entropy(student, labels), segmentation_loss(student, labels))


@pytest.mark.parametrize(
    "options", [["--rounds", "1"], ["--batch", "1"], ["--memory", "--device", "cuda"], ["--peer-path", "."]]
)
def test_options_that_cannot_be_measured_are_refused(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mmcv", "mmseg", "mmseg.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit):
        tool.main([*TINY, *options])


@pytest.mark.slow
def test_the_paper_sized_pair_steps_in_both_forms(tmp_path: Path) -> None:
    record = run(tmp_path, "--parts", "mmrazor's form")
    assert [row["variant"] for row in record["rows"]] == ["BPKD, TEACHER.FAST off", "BPKD, TEACHER.FAST auto"]
