from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bpkd.config import read_config
from bpkd.distillers import DISTILLERS
from bpkd.modeling.build_distiller import distiller_of_config

MODULE = """
from bpkd.distillers import DISTILLERS, Distiller

@DISTILLERS.register()
class {name}(Distiller):
    def __init__(self, *, weight: float = 1.0, tap: str = "decode", steps: int | None = None, **common):
        super().__init__(**common)

def add_config(cfg):
    cfg.MODEL.OUTSIDE = 3
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in Python's path with modules that register Outside and Other; both are forgotten afterwards."""
    for module, name in (("outside_one", "Outside"), ("outside_two", "Other")):
        (tmp_path / f"{module}.py").write_text(MODULE.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for module in ("outside_one", "outside_two", "outside_same", "outside_broken"):
        sys.modules.pop(module, None)
    for name in ("Outside", "Other"):
        if name in DISTILLERS:
            del DISTILLERS[name]


def write(folder: Path, text: str, name: str = "config.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_distiller_of_another_package_gets_its_node(outside: Path) -> None:
    path = write(
        outside, "IMPORTS: [outside_one]\nDISTILL: {METHOD: Outside, Outside: {WEIGHT: 2}}\nMODEL: {OUTSIDE: 4}"
    )
    cfg = read_config(path)
    assert cfg.DISTILL.Outside == {"WEIGHT": 2.0, "TAP": "decode", "STEPS": None}
    assert cfg.MODEL.OUTSIDE == 4  # a key that the module's add_config adds
    again = read_config(write(outside, cfg.dump(), "dumped.yaml"))  # as a run is resumed or evaluated
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


def test_imports_of_a_base_file_and_of_pairs(outside: Path) -> None:
    write(outside, "IMPORTS: [outside_one]\nDISTILL: {Outside: {WEIGHT: 2.0}}", "base.yaml")
    assert read_config(write(outside, "_BASE_: base.yaml\nSEED: 1")).DISTILL.Outside.WEIGHT == 2.0
    empty = write(outside, "SEED: 1", "empty.yaml")
    for value in ("['outside_two']", ["outside_two"]):
        cfg = read_config(empty, ["DISTILL.Other.TAP", "layer4", "IMPORTS", value])
        assert cfg.IMPORTS == ["outside_two"]
        assert cfg.DISTILL.Other.TAP == "layer4"


def test_values_of_another_packages_node_have_their_types(outside: Path) -> None:
    path = write(outside, "IMPORTS: [outside_one]")
    with pytest.raises(ValueError, match=r"DISTILL.Outside.STEPS: expected a whole number or None, got 'x' \(str\)"):
        read_config(path, ["DISTILL.Outside.STEPS", "x"])
    assert read_config(path, ["DISTILL.Outside.STEPS", "-1"]).DISTILL.Outside.STEPS == -1  # no preset fills it


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        (
            "[no_such_module]",
            r"found no 'no_such_module' among.*PYTHONPATH \(.*Install it",
        ),
        ("[no_such.module]", "found no 'no_such' for 'no_such.module'"),
        ("[outside_broken]", "importing outside_broken failed: RuntimeError: it breaks here"),
        ("[outside_exits]", "importing outside_exits failed: SystemExit: 0"),
        ("[outside_needs]", "outside_needs needs 'no_such_package', which is not found"),
        (
            "[outside_one, outside_same]",
            "expected a new name, got 'Outside' for outside_same.Outside; outside_one.Outside",
        ),
        ("[outside_one.py]", "expected a name as after `import`, package.module, got 'outside_one.py'"),
        ("{a: b}", "expected a list of modules"),
        ("outside_one", "expected a list of modules.*got 'outside_one'"),
    ],
)
def test_mistakes_end_in_one_line(outside: Path, imports: str, message: str) -> None:
    (outside / "outside_broken.py").write_text("raise RuntimeError('it breaks\\nhere')")
    (outside / "outside_exits.py").write_text("raise SystemExit(0)")
    (outside / "outside_needs.py").write_text("import no_such_package")
    (outside / "outside_same.py").write_text(MODULE.format(name="Outside"))
    with pytest.raises(ValueError, match=message) as error:
        read_config(write(outside, f"IMPORTS: {imports}"))
    assert "IMPORTS: " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_in_the_current_folder_is_found_by_pythonpath_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "", "lies_here.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".", str(tmp_path))])
    with pytest.raises(ValueError, match="It lies in the current folder: export PYTHONPATH=/"):
        read_config(write(tmp_path, "IMPORTS: [lies_here]"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"It lies beside the config: export PYTHONPATH={tmp_path}"):
        read_config(write(tmp_path, "IMPORTS: [lies_here]"))


def test_arguments_of_many_kinds(outside: Path) -> None:
    signature = (
        "weight: float = 1, tap: float | None = 2.0, sizes: tuple[int, int] = (3, 4), names: list = ['a'], "
        "mode: Literal['x', 'y'] = 'x', soft: bool = False, camelCase: int = 1"
    )
    text = MODULE.replace('weight: float = 1.0, tap: str = "decode", steps: int | None = None', signature)
    keep = "self.kept = (weight, tap, sizes, names, mode, soft, camelCase)"
    text = "from typing import Literal\n" + text.replace("(**common)", f"(**common)\n        {keep}")
    (outside / "outside_one.py").write_text(text.format(name="Outside"))
    path = write(outside, "IMPORTS: [outside_one]\nDISTILL: {METHOD: Outside, Outside: {WEIGHT: 0.5, TAP: null}}")
    changes = {"SIZES": "(5, 6)", "NAMES": "['b']", "MODE": "y", "SOFT": "True", "CAMELCASE": "7"}
    cfg = read_config(path, [word for key, value in changes.items() for word in (f"DISTILL.Outside.{key}", value)])
    again = read_config(write(outside, cfg.dump(), "dumped.yaml"))
    for one in (cfg, again):
        kept = distiller_of_config(one, num_classes=3).kept
        assert kept == (0.5, None, [5, 6], ["b"], "y", True, 7)
    with pytest.raises(ValueError, match="DISTILL.Outside.SOFT: expected bool, got int"):
        read_config(path, ["DISTILL.Outside.SOFT", "1"])
