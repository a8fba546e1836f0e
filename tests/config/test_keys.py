"""The declared keys: complete, each with a range that its default lies in and that nonsense does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg

from bpkd.config import check_values, get_bpkd_cfg, read_config
from bpkd.config.check import value_of
from bpkd.config.keys import DETECTRON2, KEYS
from bpkd.config.keys.distillation import TEACHER_KEYS
from bpkd.config.kinds import Choice, ListOf, Number, Text
from bpkd.config.written import read_value
from bpkd.distillers import DISTILLERS, arguments
from bpkd.modeling.backbones.hrnet import VARIANTS
from bpkd.modeling.backbones.mobilenet_v2 import STAGES as MOBILE_STAGES
from bpkd.modeling.backbones.resnet import DEPTHS, STAGES
from bpkd.ranges import Range

NAN, INF = float("nan"), float("inf")
NONSENSE: tuple[Any, ...] = (
    NAN, INF, -INF, -1, -0.5, -(10**9), 10**9, 1e30, 0, True, None, "text", "", "nan", {"A": 1}, [], [NAN], ["a"],
    [True], [-1], [None], [[1]], [0, 0], [0.5, INF], ["1", "x"], [1, 2, 3, 4, 5, 6, 7],
)  # fmt: skip


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [(prefix + key, value)]


def test_every_key_that_bpkd_adds_or_changes_is_declared() -> None:
    theirs, own = dict(leaves(get_cfg())), [f"DISTILL.{name}." for name in DISTILLERS]
    for key, value in leaves(get_bpkd_cfg()):
        if key not in theirs or theirs[key] != value:
            assert key in KEYS or key.startswith(tuple(own)), key
            assert key not in KEYS or KEYS[key].default is not DETECTRON2, key
    assert set(KEYS) <= dict(leaves(get_bpkd_cfg())).keys()


@pytest.mark.parametrize("name", KEYS)
def test_a_declaration_is_whole(name: str) -> None:
    key = KEYS[name]
    value = value_of(get_bpkd_cfg(), name)
    assert key.problem(value) == ""
    assert read_value(key, value) == (list(value) if isinstance(value, tuple) else value)
    assert key.meaning.endswith(".")
    assert key.meaning[0] != " "
    if key.only:
        assert key.only[0] in KEYS
        assert all(KEYS[key.only[0]].kind.accepts(one) for one in key.only[1])


def numbers(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for one in value for number in numbers(one)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def shape(value: Any) -> Any:
    """What a value is, without how large it is."""
    if isinstance(value, list | tuple):
        return [shape(one) for one in value]
    return "number" if numbers(value) else type(value).__name__


# Lists whose entries are checked where they are used: keys of teachers, arguments of a user's module.
FREE = {"TEACHER.OPTS", "TEACHER.OTHERS", "MODEL.MODULE.KWARGS"}


@pytest.mark.parametrize("name", sorted(set(KEYS) - FREE))
def test_nonsense_is_refused_by_name_or_lies_in_the_range(name: str) -> None:
    refused = [value for value in NONSENSE if not accepted(name, value)]
    assert len(refused) >= 10


def accepted(name: str, value: Any) -> bool:
    """What is accepted has the default's type and length, is finite and lies between the bounds as they are printed."""
    key, default = KEYS[name], value_of(get_bpkd_cfg(), name)
    try:
        read = read_value(key, value)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert message.startswith(f"{name}: expected {key.kind}, got ")
        assert "\n" not in message
        assert len(message) < 600
        return False
    assert all(map(math.isfinite, numbers(read)))
    item = key.kind
    while isinstance(item, ListOf) and read is not None:
        assert isinstance(read, list)
        assert len(read) in ([item.length] if item.length else range(item.least, 100))
        item, read = item.item, read[0] if read else None
        default = default[0] if default else None
    if read is None or default is None:
        return True  # an empty list
    assert shape(read) == shape(default) or isinstance(item, Choice)
    for number in numbers(read) if isinstance(item, Number) else []:
        bounds = item.range
        assert bounds.low is None or number >= bounds.low
        assert bounds.high is None or number <= bounds.high
        assert bounds.above is None or number > bounds.above
        assert bounds.below is None or number < bounds.below
    return True


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if not isinstance(key.kind, Text)])
def test_the_doors_refuse_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("VERSION: 2\n")
    with pytest.raises(ValueError, match=rf"KEY VALUE pairs over .*c.yaml: {name}: expected "):
        read_config(str(tmp_path / "c.yaml"), [name, "nan"])
    cfg = get_bpkd_cfg()
    place(cfg, name, NAN)
    with pytest.raises(ValueError, match=rf"^{name}: expected "):
        check_values(cfg)


def place(cfg: CfgNode, name: str, value: Any) -> None:
    node, _, last = name.rpartition(".")
    (value_of(cfg, node) if node else cfg)[last] = value


LARGE = {
    "SOLVER.MAX_ITER": 10**7, "SOLVER.IMS_PER_BATCH": 4096, "SOLVER.BASE_LR": 30.0, "SOLVER.WEIGHT_DECAY": 0.3,
    "SOLVER.MOMENTUM": 0.9999, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1e6, "SOLVER.POLY_POWER": 3.0, "SEED": 2**63 - 1,
    "SOLVER.HEAD_LR_MULTIPLIER": 100.0, "SOLVER.GRADIENT_RATIO_LIMIT": 1e9, "INPUT.CROP_SIZE": [2048, 4096],
    "INPUT.SCALE_RANGE": [0.01, 16.0], "INPUT.FLIP_PROB": 1.0, "TEST.SCALES": [0.25, 8.0], "TEST.BOUNDARY_RATIO": 1.0,
    "TEST.DETECTIONS_PER_IMAGE": 5000, "MODEL.PIXEL_MEAN": [0.0, -3.0, 30000.0], "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 847,
    "MODEL.RESNET_V1C.WIDTH_MULTIPLIER": 4.0, "MODEL.SEM_SEG_HEAD.CHANNELS": 4096, "DATALOADER.NUM_WORKERS": 128,
    "SOLVER.CHECKPOINT_PERIOD": 10**9, "SOLVER.KEEP_CHECKPOINTS": 1000, "DISTILL.INSTANCE.BOX_REGION": 10.0,
}  # fmt: skip


def test_large_values_that_somebody_may_mean_are_accepted() -> None:
    cfg = get_bpkd_cfg()
    for name, value in LARGE.items():
        assert read_value(KEYS[name], value) == value
        place(cfg, name, value)
    check_values(cfg)


def test_choices_are_those_of_the_code() -> None:
    assert KEYS["MODEL.RESNET_V1C.DEPTH"].kind == Choice(tuple(DEPTHS))
    assert KEYS["MODEL.HRNET.VARIANT"].kind == Choice(tuple(VARIANTS))
    for node, stages in (("RESNET_V1C", STAGES), ("MOBILENET_V2", MOBILE_STAGES)):
        assert sorted(KEYS[f"MODEL.{node}.OUTPUT_STRIDE"].kind.names) == sorted(stages)  # type: ignore[attr-defined]


def test_keys_of_a_teacher_are_those_of_every_teacher() -> None:
    assert {f"TEACHER.{key.name}" for key in TEACHER_KEYS} <= set(KEYS)


# Distillers: ranges by annotation.

SIGNED = {"MAX_GIGABYTES"}


@pytest.mark.parametrize(
    ("method", "name"), [(m, n) for m in DISTILLERS for n, a in arguments(DISTILLERS[m]).items() if a.hints != (bool,)]
)
def test_arguments_of_distillers_have_ranges(method: str, name: str, tmp_path: Path) -> None:
    key, argument = f"DISTILL.{method}.{name.upper()}", arguments(DISTILLERS[method])[name]
    text = isinstance(argument.default, str) or name in ("normalizer", "pre_mask", "adv_loss", "critic_optimizer")
    wrong = ["3"] if text else ["-2", "1e999", "nan", "[nan]", "[-2]"]
    (tmp_path / "c.yaml").write_text("VERSION: 2\n")
    for value in wrong:
        with pytest.raises(ValueError, match=key.replace(".", r"\.")) as error:
            read_config(str(tmp_path / "c.yaml"), [key, value])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("KD: {WEIGHT: .nan}", "line 1: DISTILL.KD.WEIGHT: expected a number of at least 0, got nan"),
        ("KD: {TEMPERATURE: 0}", "DISTILL.KD.TEMPERATURE: expected a number above 0, got 0.0"),
        ("BPKD: {CLASS_WEIGHT: [1.0, -2.0]}", "CLASS_WEIGHT: expected a number of at least 0 or a list, each a number"),
        ("BPKD: {KERNEL_SIZE: 0}", "KERNEL_SIZE: expected a whole number of at least 1, got 0"),
        ("BPKD: {IGNORE_MODE: solid}", "IGNORE_MODE: expected one of opaque, transparent, got 'solid'"),
        ("SKDS: {POOL_SCALE: 1.5}", "POOL_SCALE: expected a number above 0 and of at most 1, got 1.5"),
        ("CIRKD: {PIXEL_QUEUE: -5}", "PIXEL_QUEUE: expected a whole number of at least 0, got -5"),
    ],
)
def test_a_wrong_argument_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"DISTILL: {{{text}}}\n")
    with pytest.raises(ValueError, match=message):
        read_config(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("KD", {"weight": -1.0}, "KD: weight: expected a number of at least 0, got -1.0"),
        ("CWD", {"temperature": 0}, "CWD: temperature: expected a number above 0, got 0"),
        ("BPKD", {"edge_weight": NAN}, "BPKD: edge_weight: expected a number of at least 0, got nan"),
        ("BPKD", {"class_weight": (1.0, -1.0)}, "BPKD: class_weight: expected a number of at least 0 or a list"),
        ("SKDS", {"critic_optimizer": "rmsprop"}, "SKDS: critic_optimizer: expected one of adam, sgd, got 'rmsprop'"),
    ],
)
def test_constructors_refuse_the_same(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DISTILLERS[name](num_classes=2, **options)


def test_ranges_in_words() -> None:
    said = [str(r) for r in (Range(), Range(0, 1), Range(1), Range(above=0), Range(0, below=1), Range(above=0, high=1))]
    assert said == ["", "from 0 to 1", "of at least 1", "above 0", "of at least 0 and below 1",
                    "above 0 and of at most 1"]  # fmt: skip
    assert [x in Range(0, below=1) for x in (0, 0.5, 1, -1, NAN)] == [True, True, False, False, False]
    assert [x in Range(above=0) for x in (0, 1e-300, INF)] == [False, True, False]
