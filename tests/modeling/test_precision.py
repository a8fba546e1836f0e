"""Which numeric type a network runs in, what is said about it, and what a resumed run keeps."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bpkd.config import get_bpkd_cfg
from bpkd.engine import cli, load_config
from bpkd.engine import process_setup as resources
from bpkd.modeling import precision
from bpkd.modeling.precision import choose_precision, describe
from tests.helpers.engine_runs import TINY

CPU, GPU = torch.device("cpu"), torch.device("cuda")
AUTO = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "auto")


def has(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Lets every device have instructions for these types."""
    monkeypatch.setattr(precision, "has_instructions", lambda dtype, _: dtype in ("off", *names))
    monkeypatch.setattr(precision, "slowdown", lambda *_, **__: 5.04)
    monkeypatch.setattr(precision, "device_name", lambda device: f"this {device.type}")


@pytest.mark.parametrize(
    ("device", "names", "expected"),
    [(CPU, ("bf16",), "bf16"), (CPU, ("fp16",), "off"), (CPU, (), "off"),
     (GPU, ("bf16", "fp16"), "bf16"), (GPU, ("fp16",), "fp16"), (GPU, (), "off")],
)  # fmt: skip
def test_auto_takes_what_the_device_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, names: tuple[str, ...], expected: str
) -> None:
    has(monkeypatch, *names)
    assert choose_precision("auto", device, key="TEACHER.AMP") == expected
    assert choose_precision("off", device, key="TEACHER.AMP") == "off"


def test_a_type_that_is_asked_for_is_taken_and_its_cost_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    has(monkeypatch)
    assert choose_precision("bf16", CPU, key="TEACHER.AMP") == "bf16"
    message = "TEACHER.AMP: bf16, in which this cpu is slower than in float32: a convolution takes 5.0 times as long. "
    assert message in caplog.text
    caplog.clear()
    has(monkeypatch, "bf16")
    assert choose_precision("bf16", CPU, key="TEACHER.AMP") == "bf16"
    assert not caplog.text
    with pytest.raises(ValueError, match="TEACHER.AMP: expected one of auto, off, bf16, fp16, got 'int8'"):
        choose_precision("int8", CPU, key="TEACHER.AMP")


def test_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "bf16")
    assert describe("bf16", CPU, key="K") == "bf16 (this cpu has instructions for it)"
    assert describe("off", CPU, key="K") == "float32 (K is off)"
    has(monkeypatch)
    assert describe("bf16", CPU, key="K") == "bf16 (this cpu has no instructions for it)"
    assert describe("off", CPU, key="K") == "float32 (this cpu has no instructions for bf16)"


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="instruction sets of x86-64")
def test_a_processor_without_bf16_stays_with_float32() -> None:
    code = (
        "import torch; from bpkd.modeling.precision import *; d = torch.device('cpu');"
        "print(choose_precision('auto', d, key='K')); choose_precision('bf16', d, key='K'); print(slowdown('bf16', d))"
    )
    pinned = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **pinned}, check=True)
    chosen, factor = done.stdout.split()
    assert chosen == "off"
    assert float(factor) > 0
    assert ("K: bf16, in which this CPU (AVX2) is slower than in float32" in done.stderr) == (float(factor) > 1.2)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "student.yaml"
    path.write_text(TINY % 9)
    return path


def test_a_run_says_what_it_ran_in(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "bf16")
    said: list[str] = []
    monkeypatch.setattr(resources.logger, "info", lambda text, *values: said.append(text % values))
    folder = config.parent / "out"
    command = ["--config-file", str(config), "--resume", "OUTPUT_DIR", str(folder), *AUTO]
    assert cli([*command, "SOLVER.MAX_ITER", "1"]) == 0
    record = json.loads((folder / "run.json").read_text())
    assert record["precision"] == {"student": "bf16"}
    assert "DTYPE: bf16" in record["config"]
    assert said[0] == "Precision of the student: bf16 (this cpu has instructions for it)"
    assert "processes here: 1; threads of each: " in said[1]
    # On a machine without bf16 the run goes on as it began; one that begins there does not.
    has(monkeypatch)
    opts = ["OUTPUT_DIR", str(folder), *AUTO]
    assert load_config(str(config), opts, resume=True).SOLVER.AMP.DTYPE == "bf16"
    assert load_config(str(config), opts).SOLVER.AMP.DTYPE == "off"
    assert load_config(str(config), [*opts, "SOLVER.AMP.DTYPE", "off"], resume=True).SOLVER.AMP.DTYPE == "off"
    assert cli([*command, "SOLVER.MAX_ITER", "2"]) == 0
    assert json.loads((folder / "run.json").read_text())["precision"] == {"student": "bf16"}


@pytest.mark.parametrize("text", ["", "[1, 2]", "SOLVER: {AMP: {DTYPE", "SOLVER: {AMP: {}}", "\x00"])
def test_a_damaged_config_of_a_run_does_not_stop_it(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    has(monkeypatch, "bf16")
    folder = config.parent / "out"
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    with caplog.at_level("WARNING", "bpkd"):
        assert load_config(str(config), ["OUTPUT_DIR", str(folder), *AUTO], resume=True).SOLVER.AMP.DTYPE == "bf16"
    assert "config.yaml: it cannot be read" in caplog.text


def test_a_device_that_is_not_there_computes_on_the_cpu(config: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert load_config(str(config), ["MODEL.DEVICE", "cuda:1", *AUTO]).MODEL.DEVICE == "cpu"
    with pytest.raises(ValueError, match=r"MODEL.DEVICE: expected cpu, cuda or cuda:N, got 'gpu'\."):
        load_config(str(config), ["MODEL.DEVICE", "gpu"])


def test_the_cost_is_measured_in_inference_too() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        precision.slowdown.cache_clear()
        with mode():
            assert precision.slowdown("bf16", CPU) > 0


def test_a_recorded_teacher_keeps_its_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    has(monkeypatch)
    cfg = get_bpkd_cfg()
    cfg.MODEL.DEVICE, cfg.TEACHER.AMP, cfg.TEACHER.CACHE = "cpu", "auto", str(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"of": {"TEACHER.AMP": "bf16", "TEACHER.FAST": "off"}}))
    resources.settle_precision(cfg)
    assert cfg.TEACHER.AMP == "bf16"
    assert cfg.SOLVER.AMP.DTYPE == "off"


def test_every_teacher_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "bf16")
    cfg = get_bpkd_cfg()
    cfg.MODEL.DEVICE, cfg.TEACHER.AMP = "cpu", "auto"
    cfg.TEACHER.OTHERS = [{"AMP": "auto"}, {"AMP": "fp16"}, {}]
    resources.settle_precision(cfg)
    assert cfg.TEACHER.AMP == "bf16"
    assert cfg.TEACHER.OTHERS == [{"AMP": "bf16"}, {"AMP": "fp16"}, {}]


@pytest.mark.parametrize("began", ["bf16", "off"])
def test_a_fast_teacher_stays_as_it_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, began: str) -> None:
    cfgs = []
    for names, resume in ((("bf16",) if began == "bf16" else (), False), (() if began == "bf16" else ("bf16",), True)):
        has(monkeypatch, *names)
        cfg = get_bpkd_cfg()
        cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "cpu", str(tmp_path)
        cfg.TEACHER.OPTIMIZE, cfg.TEACHER.OTHERS = "auto", [{"OPTIMIZE": "auto", "EXPORTED": "a.ts"}]
        resources.settle_precision(cfg, resume=resume)
        (tmp_path / "config.yaml").write_text(cfg.dump())
        cfgs.append(cfg)
    for cfg in cfgs:
        assert ("fold+channels_last", began) == (cfg.TEACHER.OPTIMIZE, cfg.TEACHER.AMP)
        assert [{"OPTIMIZE": "off", "EXPORTED": "a.ts", "AMP": began}] == cfg.TEACHER.OTHERS


def test_processes_on_unlike_machines_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "bf16")
    monkeypatch.setattr(resources.comm, "all_gather", lambda told: [told, ({}, "off")])
    cfg = get_bpkd_cfg()
    cfg.MODEL.DEVICE, cfg.TEACHER.AMP = "cpu", "auto"
    resources.settle_precision(cfg)
    assert cfg.TEACHER.AMP == cfg.SOLVER.AMP.DTYPE == "off"
