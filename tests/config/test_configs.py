"""Every config in the repository builds its network and states no key that nothing reads."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventWriter

from bpkd.config import WRAPPERS, check_values, read_config
from bpkd.data import register_datasets
from bpkd.engine.trainer import DistillationTrainer
from bpkd.modeling import build_student
from tests.helpers.config_files import (
    BASES,
    COMPARISONS,
    FILES,
    ROOT,
    RUNS,
    config,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # TEACHER.CONFIG_FILE is relative to it


# Which keys the code reads


class Recorder(CfgNode):
    """A config that notes the dotted name of every value that is taken from it."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if not isinstance(value, CfgNode):
            self._reads.add(self._prefix + key)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        with contextlib.suppress(KeyError):
            return self[key]
        return default

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        return [self[key] for key in self]

    def __deepcopy__(self, memo: Any) -> Any:
        raise NotImplementedError("a copy would count every key as read")


def recorder(node: CfgNode, reads: set[str], prefix: str = "") -> Recorder:
    copy = Recorder()
    copy.__dict__.update(_reads=reads, _prefix=prefix)
    for key, value in dict.items(node):
        inner = recorder(value, reads, f"{prefix}{key}.") if isinstance(value, CfgNode) else value
        dict.__setitem__(copy, key, inner)
    return copy


class FakeCatalog:
    """Data sets without files."""

    @staticmethod
    def get(name: str) -> Any:
        return FakeObjects() if name.startswith(OBJECTS) else FakeMetadata()

    @staticmethod
    def list() -> list[str]:
        return []


class FakeMetadata(SimpleNamespace):
    stuff_classes = ("a", "b")
    label_table = (0, 1)
    ignore_label = 255
    evaluator_type = "bpkd_sem_seg"

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)


class FakeObjects(FakeMetadata):
    stuff_classes = None
    evaluator_type = "coco"
    json_file = "labels.json"
    thing_classes = ("a", "b")


OBJECTS = ("coco", "nuclei", "procedural_objects")
BUILT: dict[str, Any] = {}


def built(cfg: CfgNode) -> tuple[Any, set[str]]:
    """The wrapped or plain network on the meta device and the keys that it was built from."""
    key = "".join(str(node) for node in (cfg.MODEL, cfg.DISTILL, cfg.TEACHER))
    if key not in BUILT:
        reads: set[str] = set()
        with torch.device("meta"):
            BUILT[key] = build_model(recorder(cfg, reads)), reads
    return BUILT[key]


def teacher_built(cfg: CfgNode) -> Any:
    key = f"teacher {cfg.MODEL}"
    if key not in BUILT:
        BUILT[key] = build_student(cfg)
    return BUILT[key]


@contextlib.contextmanager
def no_files() -> Iterator[None]:
    """Everything that would read or write a file, or know one, is replaced; all that reads a config is real."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (
            "data.classes", "data.loader", "engine.trainer", "evaluation.build", "modeling.teachers.classes",
        ):  # fmt: skip
            patch.setattr(f"bpkd.{module}.MetadataCatalog", FakeCatalog)
        patch.setattr("bpkd.data.loader.DatasetCatalog.get", lambda name: [{"file_name": name, "annotations": [{}]}])
        patch.setattr("bpkd.data.loader.check_class_count", lambda *args, **kwargs: None)
        patch.setattr("bpkd.evaluation.build.InstanceEvaluator", lambda **options: None)
        patch.setattr("bpkd.data.catalog._register", lambda *args: None)
        loaded = SimpleNamespace(classes=None)
        patch.setattr("bpkd.modeling.teachers.build.load_strict", lambda *args, **kwargs: loaded)
        patch.setattr("bpkd.modeling.teachers.build.build_student", teacher_built)
        patch.setattr("bpkd.engine.start.load_backbone", lambda *args, **options: None)
        patch.setattr("bpkd.engine.trainer.environment", dict)
        evaluation = importlib.import_module("bpkd.engine.evaluate")  # the package exports a function of that name
        patch.setattr(evaluation, "inference_on_dataset", lambda *args, **kwargs: {})
        for writer in ("TermPrinter", "StrictJSONWriter", "TaggedWriter"):
            patch.setattr(f"bpkd.engine.trainer.{writer}", lambda *args, **kwargs: EventWriter())
        yield


def keys_read(cfg: CfgNode, output: Path) -> set[str]:
    """Returns the keys that a run of this config reads, from its start up to the first batch, and its evaluation."""
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "meta", str(output)
    reads: set[str] = set()
    with no_files():
        model, of_model = built(cfg)
        reads |= of_model
        if cfg.DATASETS.TRAIN:  # else an architecture alone
            noted = recorder(cfg, reads)
            register_datasets(noted)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("bpkd.engine.trainer.build_model", lambda cfg: model)
                trainer = DistillationTrainer(noted)
            trainer.resume_or_load(resume=False)
            trainer._evaluate()
    if cfg.TEST.MODE != "slide":  # handed over, not used
        reads -= {"TEST.SLIDE_CROP", "TEST.SLIDE_STRIDE"}
    return reads


def source_reads(key: str) -> bool:
    """Whether the start of a run (log, switches, check of the data) reads the key: that code is not run here."""
    if key.split(".")[0] in ("MODEL", "DISTILL", "TEACHER"):
        return False
    source = (ROOT / "bpkd" / "engine" / "launch.py").read_text()
    return re.search(rf"\bcfg\.{re.escape(key)}\b", source) is not None


def stated(node: dict[str, Any], prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for key, value in node.items():
        keys |= stated(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return keys


def unused(path: Path, output: Path) -> list[str]:
    keys = stated(CfgNode.load_yaml_with_base(str(path))) - {"VERSION"}
    cfg = read_config(str(path))
    check_values(cfg)
    reads = keys_read(cfg, output)
    return sorted(k for k in keys if k not in reads and not source_reads(k))


@pytest.mark.parametrize("name", sorted(BASES))
def test_every_base_reads_and_is_somebodys(name: str) -> None:
    cfg = config(name)
    check_values(cfg)
    assert cfg.VERSION == 2
    pattern = re.compile(rf"^_BASE_:.*\b{re.escape(Path(name).name)}", re.MULTILINE)
    assert any(pattern.search(path.read_text()) for path in FILES.values())


@pytest.mark.parametrize("name", RUNS)
def test_every_config_builds_and_every_key_is_read(name: str, tmp_path: Path) -> None:
    assert unused(FILES[name], tmp_path / "run") == []
    cfg = config(name)
    assert cfg.VERSION == 2
    assert (cfg.DISTILL.METHOD != "none") == (cfg.MODEL.META_ARCHITECTURE in WRAPPERS) == ("__" in name)


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_method_of_a_comparison_reads_its_settings(name: str, tmp_path: Path) -> None:
    stated_nodes = stated(CfgNode.load_yaml_with_base(str(FILES[name])))
    methods = {key.split(".")[1] for key in stated_nodes if key.startswith("DISTILL.") and key != "DISTILL.METHOD"}
    assert len(methods) > 1
    for method in sorted(methods):
        path = tmp_path / "one.yaml"
        path.write_text(f"_BASE_: {FILES[name]}\nDISTILL: {{METHOD: {method}}}\n")
        others = tuple(f"DISTILL.{m}." for m in methods - {method})
        assert [k for k in unused(path, tmp_path / method) if not k.startswith(others)] == []


@pytest.mark.parametrize(
    ("base", "text", "keys"),
    [
        ("configs/ade20k/pspnet_r18", "MODEL: {HRNET: {VARIANT: w48}}", ["MODEL.HRNET.VARIANT"]),
        ("configs/networks/pspnet_r18", "SOLVER: {BASE_LR: 0.1}", ["SOLVER.BASE_LR"]),
        ("configs/ade20k/hrnet_w18s", "MODEL: {AUX_HEAD: {CHANNELS: 64}}", ["MODEL.AUX_HEAD.CHANNELS"]),
        ("configs/ade20k/pspnet_r18", "MODEL: {SEM_SEG_HEAD: {WINDOW: [4, 4]}}", ["MODEL.SEM_SEG_HEAD.WINDOW"]),
        ("configs/ade20k/pspnet_r18", "TEACHER: {WEIGHTS: x.pth}", ["TEACHER.WEIGHTS"]),
        ("configs/ade20k/pspnet_r18", "DISTILL: {CWD: {WEIGHT: 3.0}}", ["DISTILL.CWD.WEIGHT"]),
        ("projects/BPKD/configs/ade20k/pspnet_r18__pspnet_r101__bpkd_40k", "DISTILL: {CWD: {WEIGHT: 3.0}}",
         ["DISTILL.CWD.WEIGHT"]),
        ("configs/ade20k/pspnet_r18", "SOLVER: {STEPS: [10], GAMMA: 0.5}", ["SOLVER.GAMMA", "SOLVER.STEPS"]),
        ("configs/ade20k/pspnet_r18", "INPUT: {MIN_SIZE_TEST: 512}", ["INPUT.MIN_SIZE_TEST"]),
        ("configs/ade20k/pspnet_r18", "TEST: {SLIDE_CROP: [400, 400]}", ["TEST.SLIDE_CROP"]),
        ("configs/ade20k/pspnet_r18", "DATASETS: {CHECK: fast, PROCEDURAL: {SEED: 1}}", []),
        ("configs/ade20k/pspnet_r18", "SOLVER: {TF32: False, ACCUMULATE: 2}", []),
        ("configs/ade20k/pspnet_r18", "TEST: {MODE: slide, SLIDE_CROP: [400, 400]}", []),
    ],
)  # fmt: skip
def test_a_key_that_nothing_reads_is_found(tmp_path: Path, base: str, text: str, keys: list[str]) -> None:
    path = tmp_path / "mutant.yaml"
    path.write_text(f"_BASE_: {ROOT / base}.yaml\n{text}\n")
    assert unused(path, tmp_path / "run") == keys


@pytest.mark.parametrize(
    "text", ["MODEL: {RESNET_V1C: {DEPHT: 18}}", "SOLVER: {BASELR: 0.1}", "TEACHERS: {WEIGHTS: x}"]
)
def test_a_misspelt_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mutant.yaml"
    path.write_text(f"_BASE_: {ROOT}/configs/ade20k/pspnet_r18.yaml\n{text}\n")
    with pytest.raises(ValueError, match="Non-existent config key"):
        read_config(str(path))


def test_a_network_that_cannot_be_built_is_found(tmp_path: Path) -> None:
    path = tmp_path / "mutant.yaml"
    path.write_text(
        f"_BASE_: {ROOT}/configs/ade20k/hrnet_w18s.yaml\nMODEL: {{SEM_SEG_HEAD: {{IN_FEATURES: [layer4]}}}}\n"
    )
    with pytest.raises(ValueError, match=r"MODEL\.SEM_SEG_HEAD\.IN_FEATURES: expected one of branch1"):
        unused(path, tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "opts", "expected"),
    [
        ("DISTILL: {CWD: {WEIGHT: 3}}", [], 3.0),
        ("DISTILL: {CWD: {WEIGHT: 3.5}}", ["DISTILL.CWD.WEIGHT", "2"], 2.0),
        ("", ["DISTILL.CWD.WEIGHT", 4], 4.0),
    ],
)
def test_a_whole_number_is_a_float_where_one_is_expected(
    tmp_path: Path, text: str, opts: list[Any], expected: float
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("VERSION: 2\n" + text)
    value = read_config(str(path), opts).DISTILL.CWD.WEIGHT
    assert isinstance(value, float)
    assert value == expected


def test_other_types_stay_errors_and_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("SOLVER: {MAX_ITER: 3.5}\n")
    with pytest.raises(ValueError, match=r"line 1: SOLVER.MAX_ITER: expected a whole number of at least 1, got 3.5"):
        read_config(str(path))
    path.write_text("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match="expected YAML"):
        read_config(str(path))
    path.write_text("VERSION: 1\n")
    with pytest.raises(ValueError, match="VERSION: expected 2, got 1"):
        read_config(str(path))
