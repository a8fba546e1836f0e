"""bpkd.install_detectron2: which way is taken, what is refused, what is said."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bpkd import install_detectron2 as tool
from bpkd.extras import TRAIN, need, need_detectron2
from tests.conftest import REPO

FILES = {
    "detectron2/__init__.py": "__version__ = '0'",
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "old",
    "sal_detectron2-0.7.2.dist-info/METADATA": "Name: sal-detectron2",
}


def write_wheel(path: Path) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Commands:
    """A stand-in for `run`: records the commands and plays a machine with the given abilities."""

    def __init__(self, *, there=False, git=False, build=False, pypi=False, **more):
        self.importable, self.git, self.build, self.pypi = there, git, build, pypi
        self.torch, self.broken = more.get("torch", True), more.get("broken", False)
        self.setuptools = more.get("setuptools", True)
        self.said: list[str] = []
        self.sha256 = ""

    def __call__(self, command, timeout):
        kind = self.kind(command)
        self.said.append(kind)
        ok = getattr(self, kind)(command)
        out, err = ("0.6 in here", "") if ok else ("", f"{kind} said no")
        if kind == "check" and not ok:
            err = "ImportError: broken" if self.broken else "No module named 'detectron2'"
        return subprocess.CompletedProcess(command, 0 if ok else 1, out, err)

    @staticmethod
    def kind(command):
        text = " ".join(command)
        if tool.CHECK in text:
            return "check"
        if "import torch" in text:
            return "has_torch"
        if tool.BUILDS in text:
            return "can_build"
        return {"ls-remote": "reach"}.get(command[1], "compile" if "install" in command else "load")

    def check(self, command):
        return self.importable

    def has_torch(self, command):
        return self.torch

    def can_build(self, command):
        return self.setuptools

    def reach(self, command):
        return self.git

    def compile(self, command):
        assert command[0] == sys.executable
        assert command[-1] == f"git+{tool.GIT_URL}@{tool.GIT_COMMIT}"
        assert {"--no-build-isolation", "--no-deps"} < set(command)
        self.importable = self.build
        return self.build

    def load(self, command):
        assert command[-1] == tool.PYPI_COPY
        if self.pypi:
            folder = Path(command[command.index("-d") + 1])
            self.sha256 = write_wheel(folder / "sal_detectron2-0.7.2-cp310-none-any.whl")
            self.importable = True
        return self.pypi


@pytest.fixture
def known_wheel(tmp_path, monkeypatch):
    """Let the stand-in's wheel be the tested one."""
    sha256 = write_wheel(tmp_path / "known.whl")
    monkeypatch.setattr(tool.check_sha256, "__defaults__", (sha256,))


def install(commands, target, source="auto"):
    return tool.install(commands, source, tool.GIT_URL, target)


def test_takes_the_one_that_is_there(tmp_path):
    commands = Commands(there=True, git=True, build=True)
    assert install(commands, tmp_path).startswith("using the one that is there")
    assert commands.said == ["check"]


def test_builds_upstream_when_git_answers(tmp_path):
    commands = Commands(git=True, build=True, pypi=True)
    assert install(commands, tmp_path).startswith("installed (git)")
    assert commands.said == ["check", "has_torch", "can_build", "reach", "compile", "check"]


@pytest.mark.parametrize("git", [False, True], ids=["unreachable", "build-fails"])
def test_falls_back_to_the_pypi_copy(git, tmp_path, known_wheel, capsys):
    commands = Commands(git=git, build=False, pypi=True)
    assert install(commands, tmp_path).startswith("installed (pypi)")
    assert (tmp_path / "detectron2" / "__init__.py").is_file()
    assert (tmp_path / "sal_detectron2-0.7.2.dist-info" / "METADATA").is_file()
    assert ("the build failed" if git else "cannot reach it") in capsys.readouterr().out


def test_compiled_part_stays_out(tmp_path):
    write_wheel(tmp_path / "a.whl")
    tool.unpack(tmp_path / "a.whl", tmp_path / "site")
    assert not list((tmp_path / "site").rglob("*.so"))


def test_never_unpacks_over_another_one(tmp_path):
    write_wheel(tmp_path / "a.whl")
    (tmp_path / "detectron2").mkdir()
    with pytest.raises(tool.InstallError, match="remove it first"):
        tool.unpack(tmp_path / "a.whl", tmp_path)


def test_another_file_is_refused(tmp_path):
    commands = Commands(pypi=True)
    with pytest.raises(tool.InstallError, match=f"expected {tool.PYPI_SHA256}"):
        install(commands, tmp_path, "pypi")
    assert commands.sha256 != tool.PYPI_SHA256
    assert not (tmp_path / "detectron2").exists()


def test_failure_names_each_reason_and_two_ways_out(tmp_path):
    with pytest.raises(tool.InstallError) as caught:
        install(Commands(), tmp_path)
    text = str(caught.value)
    assert "git: cannot reach it with git: reach said no" in text
    assert "pypi: pip cannot fetch it: load said no" in text
    assert "1. Make" in text
    assert "2. Install Detectron2 yourself" in text
    assert sys.executable in text


def test_a_chosen_source_is_the_only_one_tried(tmp_path):
    commands = Commands(pypi=True)
    with pytest.raises(tool.InstallError, match="could not be installed"):
        install(commands, tmp_path, "git")
    assert "load" not in commands.said


def test_what_it_imports_comes_first(tmp_path):
    commands = Commands(torch=False, git=True, build=True)
    with pytest.raises(tool.InstallError, match=r"has_torch said no\).*pip install 'bpkd\[train\]'"):
        install(commands, tmp_path)
    assert commands.said == ["check", "has_torch"]


def test_says_what_it_will_do_before_it_does(tmp_path, known_wheel, capsys):
    install(Commands(pypi=True), tmp_path)
    said = capsys.readouterr().out
    assert sys.executable in said.splitlines()[0]
    first, second = (
        said.index(f"1. upstream's source by git: {tool.GIT_URL}"),
        said.index(f"2. the copy {tool.PYPI_COPY}"),
    )
    assert first < second < said.index("asking")


def test_a_build_without_its_tools_is_not_begun(tmp_path):
    commands = Commands(setuptools=False, git=True, build=True)
    with pytest.raises(tool.InstallError, match="-m pip install setuptools wheel"):
        install(commands, tmp_path, "git")
    assert "reach" not in commands.said


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    write_wheel(tmp_path / "a.whl")
    (tmp_path / "site").write_text("a file")
    with pytest.raises(tool.InstallError, match="site cannot be written .*virtual environment"):
        tool.unpack(tmp_path / "a.whl", tmp_path / "site")


@pytest.mark.parametrize("door", [["-m", "bpkd.install_detectron2"], [str(REPO / "tools" / "install_detectron2.py")]])
def test_both_doors_explain_themselves(door):
    done = subprocess.run([sys.executable, *door, "--help"], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m bpkd.install_detectron2" in done.stdout
    assert tool.PYPI_COPY in done.stdout


def test_the_command_itself_imports_neither_torch_nor_detectron2():
    code = "import sys, bpkd.install_detectron2; print(sorted({'torch', 'detectron2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ({"detectron2"}, "A needs Detectron2, which is not installed: python -m bpkd.install_detectron2."),
        ({"cv2"}, "A needs cv2, which is not installed: pip install 'bpkd[train]'."),
        (
            {"detectron2", "yaml", "cv2"},
            "A needs Detectron2, cv2 and yaml, which are not installed: pip install 'bpkd[train]', then "
            "python -m bpkd.install_detectron2.",
        ),
    ],
)
def test_a_missing_extra_is_one_line(missing, text, monkeypatch):
    monkeypatch.setattr("bpkd.extras.find_spec", lambda name: None if name in missing else name)
    with pytest.raises(ModuleNotFoundError) as caught:
        need_detectron2("A")
    assert str(caught.value) == text
    monkeypatch.setattr("bpkd.extras.find_spec", lambda name: name)
    need_detectron2("A")


def test_the_extra_is_the_callers():
    with pytest.raises(ModuleNotFoundError, match=r"bpkd\[onnx\]"):
        need("A", "no_such_module_bpkd", extra="onnx")


def test_detectron2s_needs_are_known_to_both():
    assert set(TRAIN) | {"torch"} == set(tool.NEEDS.split(", "))


def test_a_broken_one_is_mentioned(tmp_path, capsys):
    install(Commands(broken=True, git=True, build=True), tmp_path)
    assert "does not import: ImportError: broken" in capsys.readouterr().out


def test_run_reports_a_missing_program_and_a_timeout():
    missing = tool.run(["no-such-program-bpkd"], 5)
    assert (missing.returncode, missing.stderr) == (127, "no-such-program-bpkd: not found")
    slow = tool.run([sys.executable, "-c", "import time; time.sleep(30)"], 0.3)
    assert slow.returncode == 124
    assert "no answer" in slow.stderr


def test_pip_noise_is_left_out_of_reasons():
    text = "ERROR: real\nWARNING: Location 'a' is ignored\n\n"
    result = subprocess.CompletedProcess([], 1, "", text)
    assert tool.last_lines(result) == "ERROR: real"


def test_a_folder_of_that_name_is_not_an_installation(tmp_path, monkeypatch):
    (tmp_path / "detectron2").mkdir()
    monkeypatch.chdir(tmp_path)
    code = "import os, sys; sys.exit(os.path.exists('detectron2'))"
    assert tool.run([sys.executable, "-c", code], 60).returncode == 0
