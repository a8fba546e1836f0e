"""pip finds versions of all that this package asks for beside other projects of the field."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
# The last of each that asks for more than a recent PyTorch.
OTHERS = ["transformers>=5", "onedl-mmsegmentation>=1.4", "executorch>=1.5", "timm", "segmentation_models_pytorch"]
# On the index as source alone, quickly read; nothing else is built to learn what it asks for.
SOURCES = "fvcore,iopath,antlr4-python3-runtime,onedl-mmsegmentation"


def resolve(*what: str, report: Path) -> subprocess.CompletedProcess[str]:
    """Lets pip choose versions for an empty environment of this Python; nothing is installed."""
    options = ["--dry-run", "--ignore-installed", "--no-input", "--no-build-isolation", "--report", str(report)]
    options += ["--only-binary", ":all:", "--no-binary", SOURCES]
    return subprocess.run([sys.executable, "-m", "pip", "install", *options, *what], capture_output=True, text=True)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip reads requirements from, away from the repository, where it would leave files."""
    folder = tmp_path_factory.mktemp("package")
    if resolve("--no-deps", "packaging", report=folder / "probe.json").returncode:
        pytest.skip("no package index is reachable")
    (folder / "bpkd").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "bpkd/__init__.py"):
        shutil.copy(REPO / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS)
def test_requirements_resolve_beside(other: str, package: Path, tmp_path: Path) -> None:
    done = resolve(str(package), other, report=tmp_path / "report.json")
    assert done.returncode == 0, done.stderr[-3000:]
    chosen = json.loads((tmp_path / "report.json").read_text())["install"]
    assert {"bpkd", "torch", "numpy"} <= {item["metadata"]["name"].lower() for item in chosen}
