"""The Triton backend where there is no GPU: what it says, its numbers interpreted, its kernels compiled for GPUs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from bpkd.functional import channel_kd, class_edge_mask, use_backend
from bpkd.functional.backends import dispatch, settings, triton

REPO = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run(*arguments: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", settings.VARIABLE)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=REPO, env=environment | variables
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    return done.stdout


@needs_triton
@pytest.mark.slow
def test_values_gradients_masks_and_the_check_by_the_interpreter() -> None:
    out = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/helpers/triton_interpreted.py", TRITON_INTERPRET="1"
    )
    assert " passed" in out
    assert "skipped" not in out


@needs_triton
@pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.7", reason="written for the compiler of Triton 3.3, torch 2.7's"
)
@pytest.mark.parametrize("architecture", [80, 90])
def test_every_kernel_compiles_to_a_cubin(architecture: int, tmp_path: Path) -> None:
    out = run("tests/helpers/compile_triton.py", str(architecture), TRITON_CACHE_DIR=str(tmp_path))
    assert out.endswith("every kernel compiled\n")


def test_it_is_not_imported_before_it_is_used() -> None:
    code = "import sys, torch, bpkd.functional as f\nf.channel_kd(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))\n"
    code += (
        "found = [m for m in sys.modules if m.startswith('bpkd.') and m.endswith(('_kernels', 'triton.functions'))]\n"
    )
    run("-c", code + "assert not found, found")


def test_on_the_cpu_it_falls_back_and_says_why(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    monkeypatch.setattr(triton, "unavailable_reason", lambda: None)
    x = torch.randn(1, 2, 3, 3)
    with use_backend("eager"):
        want = channel_kd(x, x + 1)
    with use_backend("triton"):
        assert float(channel_kd(x, x + 1)) == pytest.approx(float(want), abs=1e-6)
        class_edge_mask(torch.zeros(1, 4, 4, dtype=torch.long), 2, 3)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 2
    assert all("(triton was asked for, but it runs on CUDA alone" in message for message in told)


def test_without_triton_it_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    triton.unavailable_reason.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", None)
    try:
        with use_backend("triton"):
            assert triton.unsupported_reason(torch.zeros(1)) == "Triton is not installed"
    finally:
        triton.unavailable_reason.cache_clear()
