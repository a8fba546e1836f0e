"""The commands: their table, their help without anything heavy, their doors in tools/."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from bpkd.cli import COMMANDS, main
from bpkd.cli.main import guarded
from bpkd.errors import RunFailedError, UserError
from tests.conftest import REPO

DOORS = {
    "train_net": "train", "compare": "compare", "search": "search", "visualize": "visualize", "export_model": "export",
    "convert_checkpoint": "convert", "check_data": "check-data", "prepare_data": "prepare-data",
    "boundary_metrics": "metrics", "analyze_model": "analyze", "suggest_grids": "suggest-grids",
    "cache_teacher": "cache-teacher", "make_table": "report", "gpu_sheet": "gpu-sheet",
}  # fmt: skip
HEAVY = ("torch", "detectron2", "cv2", "matplotlib", "numpy", "PIL", "yaml")
# Every help text in one process: after each of them nothing heavy may be there.
ALL_HELP = """
import contextlib, io, sys
from bpkd.cli import COMMANDS, main
assert main(["--help"]) == 0
for name in COMMANDS:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([name, "--help"])
    assert text.getvalue().startswith(f"usage: bpkd {name} "), text.getvalue()
print("LOADED", *sorted(set(sys.modules) & set(HEAVY)))
"""


def test_help_imports_nothing_heavy() -> None:
    code = ALL_HELP.replace("HEAVY", repr(HEAVY))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert done.stderr == ""


def test_the_fixed_door_imports_nothing_heavy_for_its_help() -> None:
    command = [sys.executable, "-X", "importtime", str(REPO / "tools" / "train_net.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0
    modules = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in modules
    assert not modules & set(HEAVY)
    for option in ("config-file", "eval-only", "num-gpus", "num-machines", "machine-rank", "dist-url", "resume"):
        assert f"--{option}" in done.stdout
    assert "LazyConfig" not in done.stdout


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\w", shown, re.MULTILINE) for name in COMMANDS)
    assert main(["--version"]) == 0
    assert re.fullmatch(r"bpkd \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_says_what_every_option_is(name: str) -> None:
    text = import_module(f"bpkd.cli.{name.replace('-', '_')}").parser(f"bpkd {name}").format_help()
    assert f"\nExamples:\n  bpkd {name} " in text
    assert "--traceback" in text
    parser = import_module(f"bpkd.cli.{name.replace('-', '_')}").parser()
    assert [action.dest for action in parser._actions if not action.help] == []


def test_help_of_a_command_and_of_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["help", "train"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: bpkd train ")
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: bpkd COMMAND ")
    assert main(["help", "trian"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: expected a command, got 'trian'. Did you mean train? See bpkd --help.\n"


@pytest.mark.parametrize("file", sorted(DOORS))
def test_the_tools_are_doors_to_the_commands(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = REPO / "tools" / f"{file}.py"
    assert len(path.read_text().splitlines()) <= 60
    called: list[object] = []
    monkeypatch.setattr("bpkd.cli.run", lambda *arguments: called.append(arguments) or 3)
    assert runpy.run_path(str(path))["main"](["a", "b"]) == 3
    assert called == [(DOORS[file], ["a", "b"])]
    assert DOORS[file] in COMMANDS


def test_python_m_and_the_console_script_are_the_same() -> None:
    assert '"bpkd=bpkd.cli:main"' in (REPO / "setup.py").read_text()
    done = subprocess.run([sys.executable, "-m", "bpkd", "trian"], capture_output=True, text=True, cwd=REPO)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: expected a command, got 'trian'. Did you mean train? See bpkd --help.\n"


# How a command ends


class Arguments:
    traceback = False


def ends(error: BaseException, *, traceback: bool = False) -> int:
    def command(args: object) -> int:
        raise error

    args = Arguments()
    args.traceback = traceback
    return guarded(command, args)


def test_a_mistake_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(UserError("expected this,\n  got that.")) == 2
    assert capsys.readouterr().err == "error: expected this, got that.\n"
    assert ends(FileNotFoundError(2, "No such file or directory", "a.yaml")) == 2
    assert capsys.readouterr().err == "error: a.yaml: no such file or directory.\n"


def test_a_failed_run_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(FloatingPointError("loss is nan")) == 1
    assert ends(RunFailedError("teacher ended")) == 1
    assert capsys.readouterr().err == "error: loss is nan\nerror: teacher ended\n"


def test_traceback_shows_the_frames_above_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(UserError("wrong"), traceback=True) == 2
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("error: wrong\n")


@pytest.mark.parametrize("error", [AttributeError("x"), AssertionError("x"), ValueError("not one of our checks")])
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        ends(error)


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text(
        "from bpkd.cli.main import guarded\n"
        "class Args: traceback = False\n"
        "def many(args):\n    for i in range(100000): print(i, flush=True)\n"
        "raise SystemExit(guarded(many, Args))\n"
    )
    command = f"'{sys.executable}' '{tmp_path / 'long.py'}' | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPO, env=environment())
    assert (done.stdout, done.stderr) == ("0\n", "")


def environment() -> dict[str, str]:
    """That of this process, without warning options: `make test` sets some, and they switch the silence off."""
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}, "PYTHONPATH": str(REPO)}


def test_warnings_of_others_are_silenced_and_ours_are_not(tmp_path: Path) -> None:
    code = (
        "import warnings, sys; from bpkd.cli.quiet import silence_libraries; silence_libraries()\n"
        "def warn(text, kind, module): warnings.warn_explicit(text, kind, 'f.py', 1, module=module)\n"
        "warn('`torch.jit.script` is deprecated.', FutureWarning, 'torch.jit._script')\n"
        "warn('torch.meshgrid: in an upcoming release', UserWarning, 'torch.functional')\n"
        "warn('something else', FutureWarning, 'torch.jit._script')\n"
        "warn('bpkd.set_backend is now set_backend', FutureWarning, 'mine')\n"
        "print(len(sys.warnoptions) > 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stdout == "True\n"
    assert [line.split("Warning: ")[1] for line in done.stderr.splitlines()] == [
        "something else", "bpkd.set_backend is now set_backend",
    ]  # fmt: skip
    # Started processes take the same options, and Python understands each of them.
    from bpkd.cli.quiet import NOISE

    options = [word for message, kind, _ in NOISE for word in ("-W", f"ignore:{message}:{kind.__name__}")]
    done = subprocess.run([sys.executable, *options, "-c", "pass"], capture_output=True, text=True)
    assert done.stderr == ""


def test_our_warnings_are_one_line() -> None:
    code = (
        "from bpkd.cli.quiet import silence_libraries; silence_libraries()\n"
        "import warnings; from bpkd.errors import PACKAGE\n"
        "for path in (str(PACKAGE / 'config' / 'read.py'), 'f.py'):\n"
        "    warnings.warn_explicit('old name', FutureWarning, path, 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stderr.splitlines() == ["warning: old name", "f.py:1: FutureWarning: old name"]


def test_one_warning_option_of_the_user_turns_the_silence_off() -> None:
    code = (
        "import warnings; from bpkd.cli.quiet import silence_libraries; silence_libraries()\n"
        "warnings.warn_explicit('`torch.jit.script` is deprecated.', FutureWarning, 'f.py', 1, 'torch.jit._script')\n"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, cwd=REPO)
    assert "torch.jit.script" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_a_reader_that_has_gone_is_no_error(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "bpkd", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment())
    os.close(write)
    assert done.stderr == ""
    assert done.returncode in (0, 1)
