"""tests/conftest.py: which tests are unit tests, and that they are collected where Detectron2 is not installed."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.conftest import REPO, UNIT, imports_detectron2, is_unit

ABSENT = """
import importlib.machinery as machinery
import sys

found, absent = machinery.PathFinder.find_spec, ("detectron2", "fvcore", "pycocotools")
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.split(".")[0] in absent else found(name, path, target)
)
import pytest
sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def collected(*options: str) -> dict[str, int]:
    """Number of tests per file where Detectron2 is not installed."""
    command = [sys.executable, "-c", ABSENT, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: int(count) for name, count in re.findall(r"^tests/(\S+\.py): (\d+)$", done.stdout, re.MULTILINE)}


def test_unit_tests_are_collected_without_detectron2() -> None:
    found = collected("-m", "unit")
    assert {name.split("/")[0] for name in found} == set(UNIT)
    assert found["functional/test_losses.py"] > 10


def test_a_module_is_d2_by_its_folder_or_what_it_imports() -> None:
    assert is_unit(REPO / "tests" / "metrics" / "test_metrics.py")
    assert not is_unit(REPO / "tests" / "engine" / "test_engine.py")
    assert not is_unit(REPO / "tests" / "analysis" / "test_complexity.py")  # it builds networks
    for name in ("bpkd", "bpkd.functional.backends.native", "bpkd.distillers.BPKD", "bpkd.__version__", "torch"):
        assert not imports_detectron2(name), name
    for name in ("detectron2.config", "bpkd.engine", "bpkd.modeling.solov2", "tests.helpers.tiny_networks"):
        assert imports_detectron2(name), name
