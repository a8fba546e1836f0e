"""The choice between implementations: what is asked for, what is there, what is said."""

from __future__ import annotations

import logging
import mmap
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import bpkd.functional
from bpkd.functional import (
    BACKENDS,
    SparseEdgeMask,
    boundary_kd,
    channel_kd,
    class_edge_mask,
    class_edges,
    set_backend,
    use_backend,
)
from bpkd.functional.backends import dispatch, native, settings
from bpkd.functional.backends.native import loader, openmp

REPO = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_choices", {})
    monkeypatch.setattr(settings, "_requested", [])
    monkeypatch.delenv(settings.VARIABLE, raising=False)
    monkeypatch.delenv(settings.OLD_VARIABLE, raising=False)
    settings._warn_once.cache_clear()


def in_child(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a Python of its own, with these variables and none of the caller's that choose a backend."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in (settings.VARIABLE, settings.OLD_VARIABLE, loader.VARIABLE)
    }
    environment = {"PYTHONPATH": str(REPO), **inherited, **variables}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, env=environment)


def test_a_backend_that_does_not_exist_stops_a_run_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("bpkd.engine.launch")
    monkeypatch.setenv(settings.VARIABLE, "fast")
    with pytest.raises(ValueError, match="BPKD_BACKEND: expected one of"):
        launch.load_config(str(REPO / "configs" / "camvid" / "small_student.yaml"))


def test_a_level_that_does_not_exist_stops_a_run_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("bpkd.engine.launch")
    monkeypatch.setenv(loader.VARIABLE, "avx")
    with pytest.raises(ValueError, match="BPKD_NATIVE_LEVEL: expected one of none, base, avx2, avx512, got 'avx'"):
        launch.load_config(str(REPO / "configs" / "camvid" / "small_student.yaml"))


def test_the_call_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.requested_backend() == "auto"
    monkeypatch.setenv(settings.VARIABLE, "eager")
    assert settings.requested_backend() == "eager"
    set_backend("cpp")
    with use_backend("triton"):
        assert settings.requested_backend() == "triton"
    assert settings.requested_backend() == "cpp"
    set_backend(None)
    assert settings.requested_backend() == "eager"
    monkeypatch.setenv(settings.VARIABLE, "fast")
    with pytest.raises(ValueError, match="BPKD_BACKEND: expected one of auto, eager, cpp, triton, got 'fast'"):
        settings.requested_backend()
    with pytest.raises(ValueError, match="backend: expected one of"):
        set_backend("gpu")


def choose(**reasons: str | None) -> str:
    reasons = {"cpp": None, "triton": "no GPU", **reasons}
    return dispatch.choose("f", CPU, reasons, (torch.float32,))


def test_auto_takes_the_first_that_can_run_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=dispatch.__name__)
    for _ in range(3):
        assert choose(cpp="not built") == "eager"
    assert [r.getMessage() for r in caplog.records] == [
        "f on cpu runs the backend eager (cpp: not built; triton: no GPU)."
    ]
    assert choose() == "cpp"
    assert [c.backend for c in dispatch.choices()] == ["eager", "cpp"]


def test_what_was_asked_for_and_cannot_run_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with use_backend("cpp"):
        assert choose(cpp="not built") == "eager"
    with use_backend("triton"):
        assert choose() == "cpp"
    with use_backend("eager"):
        assert choose() == "eager"
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "f on cpu runs the backend eager (cpp was asked for, but not built).",
        "f on cpu runs the backend cpp (triton was asked for, but no GPU).",
    ]


def test_old_names_work_and_warn() -> None:
    for old, new in (("set_path", set_backend), ("use_path", use_backend), ("PATHS", BACKENDS), ("native", native)):
        with pytest.warns(DeprecationWarning, match=f"bpkd.functional.{old} is now"):
            assert getattr(bpkd.functional, old) is new
    with pytest.warns(DeprecationWarning, match="is now bpkd.functional.SparseEdgeMask"):
        from bpkd.functional import EdgeRows
    assert EdgeRows is SparseEdgeMask
    rows = EdgeRows.of(torch.ones(1, 1, 1, 2))
    for old, new in (("begin", "crow"), ("cells", "index"), ("shares", "value")):
        with pytest.warns(DeprecationWarning, match=f"SparseEdgeMask.{old} is now called"):
            assert torch.equal(getattr(rows, old), getattr(rows, new))
    with pytest.raises(AttributeError):
        _ = bpkd.functional.no_such_name
    with pytest.raises(AttributeError):
        _ = rows.no_such_name
    with pytest.warns(DeprecationWarning, match="unavailable_reason"):
        assert native.unavailable() == (native.unavailable_reason() or "")


def test_the_old_variable_works_and_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPKD_PATH", "eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [settings.requested_backend() for _ in range(3)] == ["eager"] * 3
    assert [str(w.message) for w in caught] == ["The environment variable BPKD_PATH is now called BPKD_BACKEND."]
    monkeypatch.setenv("BPKD_BACKEND", "cpp")
    assert settings.requested_backend() == "cpp"


def test_the_removed_backend_is_the_reference_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(FutureWarning, match="'compiled' was removed, 'eager' runs"):
        set_backend("compiled")
    assert settings.requested_backend() == "eager"
    set_backend(None)
    monkeypatch.setenv("BPKD_BACKEND", "compiled")
    with pytest.warns(FutureWarning, match="BPKD_BACKEND: the backend 'compiled' was removed"):
        assert settings.requested_backend() == "eager"


def test_the_old_normalizer_works_and_warns() -> None:
    student, teacher, mask = torch.zeros(1, 2, 2, 2), torch.randn(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    with pytest.warns(FutureWarning, match="'cells' is now called 'positions'"):
        old = boundary_kd(student, teacher, mask, normalizer="cells")
    assert old == boundary_kd(student, teacher, mask, normalizer="positions")


def test_every_backend_has_the_functions_of_the_protocol() -> None:
    names = {name for name in vars(dispatch.Backend) if not name.startswith("_")}
    for backend in ("eager", "cpp"):
        assert names <= set(dir(dispatch.implementation(backend))), backend


def test_the_reference_gives_dense_masks() -> None:
    labels = torch.randint(0, 5, (1, 16, 16))
    with use_backend("eager"):
        assert isinstance(class_edges(labels, 5, 3, (4, 4)), torch.Tensor)


def test_a_compiled_caller_meets_the_eager_form() -> None:
    x, y = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    wrapped = torch.compile(lambda a, b: 2 * channel_kd(a, b), backend="aot_eager")
    assert float(wrapped(x, y).detach()) == pytest.approx(2 * float(channel_kd(x, y).detach()), rel=1e-5)


def test_a_checkout_without_the_extension_works(tmp_path: Path) -> None:
    shutil.copytree(REPO / "bpkd", tmp_path / "bpkd", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    code = (
        "import logging, torch; logging.basicConfig(level=20)\n"
        "from bpkd.functional import channel_kd, class_edge_mask\n"
        "from bpkd.functional.backends import native\n"
        "assert not native.level() and 'not built' in native.unavailable_reason()\n"
        "x = torch.arange(64).view(1, 8, 8) % 3\n"
        "class_edge_mask(x, 3, 3, (4, 4)); channel_kd(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))"
    )
    done = in_child(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "class_edge_mask on cpu runs the backend eager (cpp: the C++ extension is not built" in done.stderr
    assert "channel_kd on cpu runs the backend eager (cpp: the C++ extension is not built" in done.stderr


@pytest.mark.skipif(native.level() is None, reason="the C++ library is not built")
def test_a_broken_library_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = native.candidates()[0]
    shutil.copy(good, tmp_path / "_base.so")
    (tmp_path / "_avx2.so").write_text("no library")
    monkeypatch.setattr(loader, "_FOLDER", tmp_path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.delenv(loader.VARIABLE, raising=False)
    loader._load.cache_clear()
    try:
        assert native.level() == "base"
        labels = torch.arange(256).view(1, 16, 16) % 5
        with use_backend("cpp"):
            fast = class_edge_mask(labels, 5, 3, (2, 2))
        (tmp_path / "_base.so").unlink()
        loader._load.cache_clear()
        assert "_avx2.so does not load" in native.unavailable_reason()
        with pytest.raises(RuntimeError, match="does not load"):
            loader.library()
        assert torch.equal(class_edge_mask(labels, 5, 3, (2, 2)), fast)
    finally:
        loader._load.cache_clear()


CAPABILITY = {"avx512": "avx512", "avx2": "avx2", "base": "default"}  # level -> ATEN_CPU_CAPABILITY of such a processor
LEVEL = "from bpkd.functional.backends import native; print(native.level() or native.unavailable_reason())"


def skip_unless_here(level: str) -> None:
    if not any(p.name.startswith(f"_{level}.") for p in native.candidates()):
        pytest.skip(f"{level} is not built, or this processor does not run it")


@pytest.mark.parametrize("level", CAPABILITY)
def test_every_instruction_set_that_is_built_and_runs_here_is_tested(level: str) -> None:
    skip_unless_here(level)
    code = f"from bpkd.functional.backends import native; assert native.level() == {level!r}, native.level()\n"
    options = ["-q", "-p", "no:cacheprovider", "tests/functional/test_fast_losses.py"]
    code += f"import pytest, sys; sys.exit(pytest.main({options}))"
    done = in_child(code, ATEN_CPU_CAPABILITY=CAPABILITY[level])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.mark.parametrize("level", CAPABILITY)
def test_an_instruction_set_can_be_pinned(level: str) -> None:
    skip_unless_here(level)
    done = in_child(LEVEL, BPKD_NATIVE_LEVEL=level)
    assert done.stdout.split() == [level], done.stderr


def test_the_extension_can_be_switched_off() -> None:
    done = in_child(LEVEL, BPKD_NATIVE_LEVEL="none")
    assert done.stdout == "BPKD_NATIVE_LEVEL is none\n", done.stderr


def test_an_instruction_set_that_is_not_to_be_had_is_refused(tmp_path: Path) -> None:
    done = in_child(LEVEL, BPKD_NATIVE_LEVEL="avx512", ATEN_CPU_CAPABILITY="default")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "BPKD_NATIVE_LEVEL: expected one of none, " in last
    assert re.search(r"got 'avx512': torch finds (DEFAULT|NO AVX) with ATEN_CPU_CAPABILITY=default\. Unset it\.$", last)
    code = "from pathlib import Path; from bpkd.functional.backends.native import loader\n"
    code += f"loader._FOLDER = Path({str(tmp_path)!r}); loader.check_level()"
    last = in_child(code, BPKD_NATIVE_LEVEL="base").stderr.splitlines()[-1]
    assert last.endswith(
        "expected one of none, got 'base': it is not built (see docs/getting_started/install.md). Unset it."
    )
    (tmp_path / "_base.so").write_text("no library")
    last = in_child(code, BPKD_NATIVE_LEVEL="base").stderr.splitlines()[-1]
    assert "got 'base': _base.so does not load" in last


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_a_mapped_file_of_any_name_is_passed_over(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.bin")
    with open(name, "w+b") as file:
        file.write(b"x" * 4096)
        file.flush()
        with mmap.mmap(file.fileno(), 4096):
            assert all("caf" not in path for path in openmp.loaded_runtimes())
