"""The choice between implementations: what is asked for, what is there, what is said."""

from __future__ import annotations

import logging
import mmap
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bpkd.functional import channel_kd, class_edge_mask, class_edges, native, paths, set_path, use_path

REPO = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_logged", set())
    monkeypatch.setattr(paths, "_asked", [])
    monkeypatch.delenv(paths.VARIABLE, raising=False)


def in_child(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a Python of its own, with these variables and none of the caller's that choose a path."""
    inherited = {k: v for k, v in os.environ.items() if k not in (paths.VARIABLE, native.VARIABLE)}
    environment = {"PYTHONPATH": str(REPO), **inherited, **variables}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, env=environment)


def test_a_path_that_does_not_exist_stops_a_run_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("bpkd.engine.launch")
    monkeypatch.setenv(paths.VARIABLE, "fast")
    with pytest.raises(ValueError, match="BPKD_PATH: expected one of"):
        launch.load_config(str(REPO / "configs" / "camvid" / "small_student.yaml"))


def test_a_level_that_does_not_exist_stops_a_run_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = pytest.importorskip("bpkd.engine.launch")
    monkeypatch.setenv(native.VARIABLE, "avx")
    with pytest.raises(ValueError, match="BPKD_NATIVE_LEVEL: expected one of none, base, avx2, avx512, got 'avx'"):
        launch.load_config(str(REPO / "configs" / "camvid" / "small_student.yaml"))


def test_the_call_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.asked_path() == "auto"
    monkeypatch.setenv(paths.VARIABLE, "eager")
    assert paths.asked_path() == "eager"
    set_path("cpp")
    with use_path("compiled"):
        assert paths.asked_path() == "compiled"
    assert paths.asked_path() == "cpp"
    set_path(None)
    assert paths.asked_path() == "eager"
    monkeypatch.setenv(paths.VARIABLE, "fast")
    with pytest.raises(ValueError, match="BPKD_PATH: expected one of auto, eager, compiled, cpp, triton, got 'fast'"):
        paths.asked_path()
    with pytest.raises(ValueError, match="path: expected one of"):
        set_path("gpu")


def test_auto_takes_the_first_without_an_obstacle_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=paths.__name__)
    for _ in range(3):
        assert (
            paths.choose(
                "f", CPU, {"cpp": "not built", "compiled": ""}, auto=("cpp", "compiled"), types=(torch.float32,)
            )
            == "compiled"
        )
    assert [r.getMessage() for r in caplog.records] == ["f on cpu runs the path compiled (cpp: not built)."]
    assert (
        paths.choose("f", CPU, {"cpp": "not built", "compiled": ""}, auto=("cpp",), types=(torch.float32,)) == "eager"
    )
    assert paths.choose("f", CPU, {"cpp": "", "compiled": ""}, auto=("cpp",), types=(torch.float32,)) == "cpp"


def test_what_was_asked_for_and_cannot_run_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with use_path("cpp"):
        assert (
            paths.choose("f", CPU, {"cpp": "not built", "compiled": ""}, auto=("cpp",), types=(torch.float32,))
            == "eager"
        )
    with use_path("compiled"):
        assert paths.choose("f", CPU, {"cpp": ""}, auto=("cpp",), types=(torch.float32,)) == "cpp"
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "f on cpu runs the path eager (cpp was asked for, but not built)."),
        ("WARNING", "f on cpu runs the path cpp (compiled was asked for, but the function has no such path)."),
    ]


def test_rows_come_only_from_the_path_that_has_them() -> None:
    labels = torch.randint(0, 5, (1, 16, 16))
    for path in ("eager", "compiled"):
        with use_path(path):
            assert isinstance(class_edges(labels, 5, 3, (4, 4)), torch.Tensor)


def test_a_compiled_caller_meets_the_eager_form() -> None:
    x, y = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    wrapped = torch.compile(lambda a, b: 2 * channel_kd(a, b), backend="aot_eager")
    assert float(wrapped(x, y).detach()) == pytest.approx(2 * float(channel_kd(x, y).detach()), rel=1e-5)


def test_a_checkout_without_the_extension_works(tmp_path: Path) -> None:
    shutil.copytree(REPO / "bpkd", tmp_path / "bpkd", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    code = (
        "import logging, torch; logging.basicConfig(level=20)\n"
        "from bpkd.functional import channel_kd, class_edge_mask, native\n"
        "assert not native.level() and 'not built' in native.unavailable()\n"
        "x = torch.arange(64).view(1, 8, 8) % 3\n"
        "class_edge_mask(x, 3, 3, (4, 4)); channel_kd(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))"
    )
    done = in_child(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "class_edge_mask on cpu runs the path compiled (cpp: the C++ extension is not built" in done.stderr
    assert "channel_kd on cpu runs the path eager (cpp: the C++ extension is not built" in done.stderr


@pytest.mark.skipif(bool(native.unavailable()), reason=native.unavailable())
def test_a_broken_library_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = native.candidates()[0]
    shutil.copy(good, tmp_path / "_base.so")
    (tmp_path / "_avx2.so").write_text("no library")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.delenv(native.VARIABLE, raising=False)
    native._load.cache_clear()
    try:
        assert native.level() == "base"
        labels = torch.arange(256).view(1, 16, 16) % 5
        with use_path("cpp"):
            fast = class_edge_mask(labels, 5, 3, (2, 2))
        (tmp_path / "_base.so").unlink()
        native._load.cache_clear()
        assert "_avx2.so does not load" in native.unavailable()
        with pytest.raises(RuntimeError, match="does not load"):
            native.library()
        assert torch.equal(class_edge_mask(labels, 5, 3, (2, 2)), fast)
    finally:
        native._load.cache_clear()


CAPABILITY = {"avx512": "avx512", "avx2": "avx2", "base": "default"}  # level -> ATEN_CPU_CAPABILITY of such a processor
LEVEL = "from bpkd.functional import native; print(native.level() or native.unavailable())"


def skip_unless_here(level: str) -> None:
    if not any(p.name.startswith(f"_{level}.") for p in native.candidates()):
        pytest.skip(f"{level} is not built, or this processor does not run it")


@pytest.mark.parametrize("level", CAPABILITY)
def test_every_instruction_set_that_is_built_and_runs_here_is_tested(level: str) -> None:
    skip_unless_here(level)
    code = f"from bpkd.functional import native; assert native.level() == {level!r}, native.level()\n"
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
    code = f"from pathlib import Path; from bpkd.functional import native; native._FOLDER = Path({str(tmp_path)!r})\n"
    code += "native.check_level()"
    last = in_child(code, BPKD_NATIVE_LEVEL="base").stderr.splitlines()[-1]
    assert last.endswith("expected one of none, got 'base': it is not built (see docs/install.md). Unset it.")
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
            assert all("caf" not in path for path in native.openmp.loaded_runtimes())
