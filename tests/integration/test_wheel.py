"""The package as others get it: sdist and wheel are built, then used where there is nothing but PyTorch and NumPy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch

from tests.conftest import REPO, TOLERANCE

COMPILER = shutil.which("c++") or shutil.which("g++")
SOURCES = ("benchmarks", "bpkd", "configs", "dev", "docs", "examples", "projects", "tests", "tools")
PACKAGING = (
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "Makefile",
    "requirements.txt",
    "requirements-oldest.txt",
)
HELD = {
    "benchmarks": ("*.py",),
    "bpkd": ("*.py", "*.cpp", "*.h"),
    "configs": ("*.yaml",),
    "dev": ("*.py", "*.sh"),
    "tests": ("*.py",),
    "tools": ("*.py",),
}
UNBUILT = shutil.ignore_patterns("*.so", "*.pyd", "*.dylib", "__pycache__", "results", "golden")
LIBRARIES = re.compile(r"bpkd/functional/backends/native/_\w+\..*(so|pyd|dylib)$")
LINUX = sys.platform == "linux" and os.uname().machine == "x86_64"


def run(*command: object, path: str | None = None, cwd: Path | None = None) -> str:
    """Runs a command; returns what it says, and fails with it. PATH may be another one."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CC", "CXX") and k[:5] != "BPKD_"}
    environment |= {"PATH": os.environ["PATH"] if path is None else path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def build_wheel(source: Path, folder: Path, path: str | None = None) -> Path:
    folder.mkdir()
    options = ["--no-build-isolation", "--no-index", "--no-deps", "-w", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, source, path=path)
    (wheel,) = folder.iterdir()
    return wheel


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources in which nothing is built."""
    root = tmp_path_factory.mktemp("source")
    for name in (*SOURCES, *PACKAGING):
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, root / name, ignore=UNBUILT)
        else:
            shutil.copy(REPO / name, root / name)
    return root


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    code = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", code, folder, cwd=tree)
    return next(folder.glob("bpkd-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, compiled from the sdist."""
    if not COMPILER:
        pytest.skip("no C++ compiler")
    return build_wheel(sdist, tmp_path_factory.mktemp("compiled") / "wheel")


def requirements(name: str, found: set[str]) -> set[str]:
    """Adds the distributions that a distribution needs, as far as they are installed."""
    try:
        needs = distribution(name).requires or []
    except PackageNotFoundError:
        return found
    found.add(name)
    for need in (re.match(r"[\w.-]+", line)[0].lower() for line in needs if "extra ==" not in line):
        if need not in found:
            requirements(need, found)
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel, and PyTorch and NumPy as links."""
    root = tmp_path_factory.mktemp("empty")
    venv.create(root / "venv")
    folder = root / "packages"
    folder.mkdir()
    for name in requirements("torch", set()) | requirements("numpy", set()):
        files = distribution(name)
        for top in {file.parts[0] for file in files.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(files.locate_file(top))
    python = root / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root / "venv"), "platbase": str(root / "venv")}))
    (site / "torch_and_numpy.pth").write_text(str(folder) + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, path="/nowhere")
    return python


def test_sdist_holds_what_its_build_tests_and_commands_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in (*SOURCES, *PACKAGING):
        assert name in names
    for folder, pattern in ((folder, pattern) for folder, patterns in HELD.items() for pattern in patterns):
        there = {p.relative_to(REPO).as_posix() for p in (REPO / folder).rglob(pattern)}
        assert there
        assert there <= names
    assert not [name for name in names if LIBRARIES.match(name)]


def test_wheel_holds_the_package_and_one_library_per_instruction_set(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        text = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    modules = {p.relative_to(REPO).as_posix() for p in (REPO / "bpkd").rglob("*.py")}
    assert modules <= names
    assert "bpkd/py.typed" in names
    assert {f"bpkd/analysis/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"bpkd"}
    levels = ("base", "avx2", "avx512") if LINUX else ("base",)
    assert {n for n in names if LIBRARIES.match(n)} == {
        f"bpkd/functional/backends/native/_{level}.so" for level in levels
    }
    base = {line for line in text.splitlines() if line.startswith("Requires-Dist") and "extra" not in line}
    assert {re.match(r"Requires-Dist: ([\w-]+)", line)[1] for line in base} == {"torch", "numpy", "safetensors"}
    assert "Requires-Python: >=3.10,<3.15" in text


@pytest.mark.skipif(not LINUX, reason="the tag of another system")
def test_tag_serves_every_python_and_what_the_libraries_need(wheel: Path, tmp_path: Path) -> None:
    tag = re.fullmatch(r"bpkd-[\d.]+-py3-none-(manylinux_2_28|linux)_x86_64\.whl", wheel.name)
    assert tag
    newest = {b"GLIBC": (2, 28), b"GLIBCXX": (3, 4, 24), b"CXXABI": (1, 3, 11)}
    beyond = []
    with zipfile.ZipFile(wheel) as archive:
        for name in (n for n in archive.namelist() if LIBRARIES.match(n)):
            library = archive.read(name)
            found = re.findall(rb"\0(GLIBC|GLIBCXX|CXXABI)_([\d.]+)(?=\0)", library)
            assert found
            beyond += [x for x in found if tuple(map(int, x[1].split(b"."))) > newest[x[0]]]
            assert b"libgomp" not in library  # PyTorch's is taken, under whatever name
            assert b"libpython" not in library
    assert (tag[1] == "linux") == bool(beyond)  # a compiler newer than the tag's systems may ask for more


def test_without_a_compiler_the_wheel_is_pure(tree: Path, tmp_path: Path) -> None:
    wheel = build_wheel(tree, tmp_path / "wheel", path="/nowhere")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "bpkd/functional/backends/native/__init__.py" in names
    assert not [name for name in names if LIBRARIES.match(name)]


USE = """
import importlib.util, sys
from pathlib import Path
import torch
import bpkd.convert, bpkd.analysis.report
from bpkd.distillers import DISTILLERS
from bpkd.functional import boundary_kd, class_edge_mask, native, use_backend
from bpkd.functional.backends.native.openmp import loaded_runtimes
from bpkd.metrics import SegmentationMetrics
from bpkd.structures import SegOutput

assert Path(bpkd.__file__).is_relative_to(sys.prefix), bpkd.__file__
assert not any(importlib.util.find_spec(name) for name in ("cv2", "detectron2", "torchvision", "PIL"))
assert native.level(), native.unavailable()
assert len(loaded_runtimes()) <= 1, loaded_runtimes()

g = torch.Generator().manual_seed(0)
s, t = (torch.randn(2, 5, 8, 8, generator=g) * 3 for _ in range(2))
labels = torch.randint(0, 5, (2, 32, 32), generator=g)
student, teacher = SegOutput(s.requires_grad_(), None, {"decode": s * 2}), SegOutput(t, None, {"decode": t * 2})

def everything(path):
    found = {}
    with use_backend(path):
        mask = class_edge_mask(labels, num_classes=5, kernel_size=7, size=(8, 8))
        found["edge"], found["body"] = boundary_kd(s, t, mask)
        (found["gradient"],) = torch.autograd.grad(sum(boundary_kd(s, t, mask)), s)
        found["mask"] = mask
        for name, distiller in sorted(DISTILLERS.items()):
            torch.manual_seed(0)
            part = distiller(num_classes=5, student_channels={"decode": 5}, teacher_channels={"decode": 5})
            found |= {f"{name} {k}": v for k, v in part(student, teacher, labels).items()}
        metrics = SegmentationMetrics(5, ignore_index=255)
        metrics.update(s.detach().argmax(1), labels[:, ::4, ::4])
        found["mIoU"] = torch.tensor(metrics.compute()["mIoU"])
    return found

fast, truth = everything("auto"), everything("eager")
assert len(fast) == len(truth) > len(DISTILLERS)
for key, value in truth.items():
    torch.testing.assert_close(fast[key], value, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text: key + ": " + text)
print("level", native.level())
"""


def test_losses_metrics_and_distillers_run_from_the_wheel(python: Path) -> None:
    code = USE.replace("TOLERANCE", repr(TOLERANCE[torch.float32]))
    assert "level " in run(python, "-c", code, path="/nowhere", cwd=python.parent)


MISSING = """
import bpkd
for room in ("config", "data", "engine", "evaluation", "export", "modeling"):
    try:
        __import__("bpkd." + room)
    except ModuleNotFoundError as error:
        print(error)
"""


def test_what_needs_more_says_how_to_get_it(python: Path) -> None:
    said = run(python, "-c", MISSING, path="/nowhere", cwd=python.parent).splitlines()
    assert len(said) == 6
    for line in said:
        assert re.fullmatch(
            r"bpkd\.\w+ needs Detectron2, torchvision, cv2 and \d+ other packages, which are not installed: "
            r"pip install 'bpkd\[train\]', then python -m bpkd\.install_detectron2\.",
            line,
        )


@pytest.fixture(scope="module")
def trainer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment that holds the wheel, and whatever else is installed here."""
    root = tmp_path_factory.mktemp("training") / "venv"
    venv.create(root)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root), "platbase": str(root)}))
    (site / "more.pth").write_text(sysconfig.get_path("purelib") + "\n")  # searched after the environment's own
    python = root / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, path="/nowhere")
    return root / "bin"


TINY = ("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATASETS.PROCEDURAL.NUM_VAL", "2")


def test_a_users_module_trains_from_the_wheel_in_an_empty_folder(trainer: Path, tmp_path: Path) -> None:
    user, empty = tmp_path / "user", tmp_path / "empty"
    shutil.copytree(REPO / "examples" / "my_distiller", user)
    empty.mkdir()
    where = run(trainer / "python", "-c", "import bpkd; print(bpkd.__file__)", cwd=empty)
    assert Path(where.strip()).is_relative_to(trainer.parent)
    run(trainer / "bpkd", "train", "--config-file", user / "teacher.yaml", *TINY, cwd=empty)
    teacher = ("TEACHER.CONFIG_FILE", user / "teacher.yaml")
    command = (trainer / "bpkd", "train", "--config-file", user / "hints.yaml", *teacher, *TINY)
    log = run("env", f"PYTHONPATH={user}", *command, cwd=empty)
    assert "method: Hints" in log
    assert {path.name for path in (empty / "output").iterdir()} == {"teacher", "hints"}
    assert (empty / "output" / "hints" / "model_final.pth").is_file()
