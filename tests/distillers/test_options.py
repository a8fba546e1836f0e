"""Distillers by name, and their options in signatures, presets, config nodes and older configs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated as Marked
from typing import Any, Literal

import pytest
import torch

from bpkd.config import get_bpkd_cfg, read_config
from bpkd.distillers import BPKD, CIRKD, DISTILLERS, IFVD, KD, SKDS, Distiller, DistillerRegistry, Target, arguments
from bpkd.distillers import arguments as exported
from bpkd.distillers.arguments import RENAMED_PRESETS, _warn_renamed, preset_name
from bpkd.distillers.target import LabelledEdges
from bpkd.experiments.reuse import differences
from bpkd.functional import EdgeRule, SparseEdgeMask
from bpkd.ranges import Range
from bpkd.structures import EdgeMaps


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_config_node_has_the_names_and_values_of_the_signature(name: str) -> None:
    parameters = inspect.signature(DISTILLERS[name].__init__).parameters
    parity = DISTILLERS[name].parity_arguments
    wanted = {
        p.name.upper(): list(p.default) if isinstance(p.default, tuple) else p.default
        for p in parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in parity
    }
    assert dict(get_bpkd_cfg().DISTILL[name]) == wanted
    assert all(argument.meaning for argument in arguments(DISTILLERS[name]).values())


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_presets_fill_what_is_none_and_nothing_else(name: str) -> None:
    found = arguments(DISTILLERS[name])
    filled = {key for preset in DISTILLERS[name].presets.values() for key in preset}
    assert {key for key, argument in found.items() if argument.default is None} == filled


def config(tmp_path: Path, text: str = "SEED: 0") -> str:
    (tmp_path / "config.yaml").write_text(text)
    return str(tmp_path / "config.yaml")


def test_values_of_older_configs_mean_the_preset(tmp_path: Path) -> None:
    text = 'DISTILL: {BPKD: {EDGE_WEIGHT: -1.0, NORMALIZER: "", RAMP_ITERS: -1, BODY_WEIGHT: 3}}'
    cfg = read_config(config(tmp_path, text), ["DISTILL.SKDS.CRITIC_OPTIMIZER", ""])
    node = cfg.DISTILL.BPKD
    assert (node.EDGE_WEIGHT, node.NORMALIZER, node.RAMP_ITERS, node.BODY_WEIGHT) == (None, None, None, 3.0)
    assert type(node.BODY_WEIGHT) is float
    assert cfg.DISTILL.SKDS.CRITIC_OPTIMIZER is None
    with pytest.raises(ValueError, match=r"DISTILL.KD.WEIGHT: expected a number of at least 0, got -1.0"):
        read_config(config(tmp_path, "DISTILL: {KD: {WEIGHT: -1.0}}"))  # no preset fills it
    old, new = BPKD(edge_weight=-1.0, normalizer="", ramp_iters=-1), BPKD()
    assert (old.edge_weight, old.normalizer, old.ramp_iters) == (new.edge_weight, new.normalizer, new.ramp_iters)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "BPKD.EDGE_WEIGHT",
            "much",
            r"DISTILL.BPKD.EDGE_WEIGHT: expected a number of at least 0 or None, got 'much' \(str\)",
        ),
        ("BPKD.EDGE_WEIGHT", "True", r"expected a number of at least 0 or None, got True \(bool\)"),
        ("BPKD.RAMP_ITERS", "2.5", r"expected a whole number of at least 0 or None, got 2.5 \(float\)"),
        ("BPKD.NORMALIZER", "3", r"expected one of positions, .* or None, got 3 \(int\)"),
        ("KD.WEIGHT", "much", "Type mismatch"),
        ("BPKD.PRESET", "printed", r"DISTILL.BPKD.PRESET\): expected one of \['literal', 'paper', 'recommended'"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_the_key(
    tmp_path: Path, key: str, value: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(config(tmp_path), [f"DISTILL.{key}", value])


class Annotated(Distiller):
    """A distiller from outside whose annotations say more than a type."""

    def __init__(
        self,
        *,
        mode: Literal["mean", "sum"] = "mean",
        order: Literal[1, 2] | None = None,
        size: tuple[int, int] = (1, 1),
        mixed: tuple[str, float] | float | None = None,
        shares: tuple[float, ...] = (1.0,),
        names: Sequence[str | None] = (),
        pairs: list[tuple[int, int]] | None = None,
        bare: list = (),  # type: ignore[type-arg,assignment]
        anything: Any = 0,
        share: Marked[float, Range(0, 1)] | None = 0.5,
        plain: float = 1.0,
        table: dict[str, int] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)


ANNOTATED = [
    ("MODE", "sum", ""),
    ("MODE", "'max'", r"expected one of mean, sum, got 'max' \(str\)\."),
    ("ORDER", "2", ""),
    ("ORDER", "True", r"expected one of 1, 2 or None, got True \(bool\)\."),
    ("ORDER", "3", r"expected one of 1, 2 or None, got 3 \(int\)\."),
    ("SIZE", "(3, 4)", ""),
    ("SIZE", "[3, 4, 5]", r"expected a list of 2 \(a whole number, a whole number\), got \[3, 4, 5\] \(list\)\."),
    ("SIZE", "[3, 4.5]", r"expected a list of 2 .*, got \[3, 4.5\]"),
    ("MIXED", "['a', 2]", ""),
    ("MIXED", "2", ""),
    ("MIXED", "[2, 'a']", r"expected a list of 2 \(a text, a number\) or a number or None, got \[2, 'a'\]"),
    ("SHARES", "[1, 0.5, 2]", ""),
    ("SHARES", "[1, 'x']", r"expected a list, each a number, got \[1, 'x'\]"),
    ("NAMES", "['a', None]", ""),
    ("NAMES", "['a', 1]", r"expected a list, each a text, got \['a', 1\]"),
    ("PAIRS", "[[1, 2], (3, 4)]", ""),
    ("PAIRS", "[[1, 2], [3]]", r"expected a list, each a list of 2 \(a whole number, a whole number\) or None, got"),
    ("BARE", "[1, 'a']", ""),
    ("BARE", "1", "Type mismatch"),
    ("ANYTHING", "5", ""),
    ("SHARE", "1.0", ""),
    ("SHARE", "1.5", r"expected a number from 0 to 1 or None, got 1.5 \(float\)"),
    ("SHARE", "1e999", r"expected a number from 0 to 1 or None, got inf \(float\)"),
    ("PLAIN", "-3", ""),
    ("TABLE", "5", ""),
]


@pytest.mark.parametrize(("key", "value", "message"), ANNOTATED)
def test_lists_and_literals_are_checked_as_they_are_annotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, message: str
) -> None:
    monkeypatch.setattr(DISTILLERS, "_classes", {**DISTILLERS._classes, "ANNOTATED": Annotated})
    if not message:
        pair = [f"DISTILL.ANNOTATED.{key}", value]
        assert get_bpkd_cfg().DISTILL.ANNOTATED[key] != read_config(config(tmp_path), pair).DISTILL.ANNOTATED[key]
        return
    with pytest.raises(
        ValueError, match=rf"DISTILL\.ANNOTATED\.{key}: {message}" if "Type" not in message else message
    ):
        read_config(config(tmp_path), [f"DISTILL.ANNOTATED.{key}", value])


@pytest.mark.parametrize(
    ("distiller", "old", "new"),
    [
        (BPKD, "safe", "recommended"),
        (BPKD, "instances", "recommended_instance"),
        (SKDS, "default", "recommended"),
        (SKDS, "author", "author_code"),
        (IFVD, "author", "author_code"),
        (CIRKD, "author", "author_code"),
    ],
)
def test_old_names_of_presets_work_and_warn_once(
    tmp_path: Path, distiller: type[Distiller], old: str, new: str
) -> None:
    _warn_renamed.cache_clear()
    key = f"DISTILL.{distiller.__name__}.PRESET"
    with pytest.warns(FutureWarning, match=f"{old!r}.* is now called {new!r}"):
        cfg = read_config(config(tmp_path), [key, old])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preset_name(distiller.presets, old) == new
    assert new == cfg.DISTILL[distiller.__name__].PRESET
    assert RENAMED_PRESETS[old] == new


def test_the_authors_pixel_weight_under_either_name() -> None:
    kinds = [IFVD(preset=name, num_classes=5) for name in ("author", "author_code")]
    assert [kind.pixel_weight for kind in kinds] == [2.0, 2.0]


def test_keys_for_comparing_numbers_load_and_are_honoured(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cfg = read_config(config(tmp_path, "DISTILL: {SKDS: {POOL_KERNEL: 0, DETACH_NORM: true}}"))
    assert cfg == get_bpkd_cfg() or set(cfg.DISTILL.SKDS) == set(get_bpkd_cfg().DISTILL.SKDS)
    with pytest.warns(FutureWarning, match="LEGACY_ENQUEUE: still honoured, but no longer a key"):
        cfg = read_config(config(tmp_path, "DISTILL: {CIRKD: {LEGACY_ENQUEUE: true}}"))
    assert cfg.DISTILL.CIRKD.LEGACY_ENQUEUE is True
    with pytest.warns(FutureWarning, match="POOL_KERNEL"):
        cfg = read_config(config(tmp_path), ["DISTILL.SKDS.POOL_KERNEL", "2"])
    options = {key.lower(): value for key, value in cfg.DISTILL.SKDS.items()}
    assert SKDS(num_classes=3, **{**options, "adv_weight": 0.0}).pool_kernel == 2
    with pytest.raises(ValueError, match="Type mismatch"):
        read_config(config(tmp_path), ["DISTILL.SKDS.POOL_KERNEL", "large"])


def test_a_run_of_an_older_version_is_reused() -> None:
    now: dict[str, Any] = {"DISTILL": {"SKDS": {"PRESET": "author_code", "PIXEL_WEIGHT": None}}}
    then = {"DISTILL": {"SKDS": {"PRESET": "author", "PIXEL_WEIGHT": -1.0, "POOL_KERNEL": 0, "DETACH_NORM": True}}}
    assert differences(then, now, method="SKDS") == {}
    then["DISTILL"]["SKDS"]["POOL_KERNEL"] = 2
    assert differences(then, now, method="SKDS") == {"DISTILL.SKDS.POOL_KERNEL": (2, None)}


# The registry


def test_registry_takes_classes_as_detectron2s_do() -> None:
    registry = DistillerRegistry()

    @registry.register()
    class Mine(Distiller):
        pass

    registry["OTHER"] = Mine
    assert (registry["Mine"], registry["OTHER"], list(registry)) == (Mine, Mine, ["Mine", "OTHER"])
    registry["Mine"] = Mine  # a reloaded module
    with pytest.raises(ValueError, match=r"expected a new name, got 'Mine' for .*KD; .*Mine has it already"):
        registry["Mine"] = KD
    with pytest.raises(TypeError, match="expected a subclass of bpkd.distillers.Distiller"):
        registry["Module"] = torch.nn.Module
    with pytest.raises(ValueError, match="expected a name of letters, digits and _"):
        registry["A+B"] = Mine


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"got 'BKPD'. Did you mean BPKD\?.*IMPORTS"):
        DISTILLERS["BKPD"]


def test_arguments_that_no_config_can_hold_are_refused() -> None:
    class Needs(Distiller):
        def __init__(self, *, weight: float, **common: Any) -> None:
            super().__init__(**common)

    with pytest.raises(TypeError, match="Needs: argument 'weight' expects a default .* got none"):
        DistillerRegistry()["Needs"] = Needs
    assert exported(KD)["mask_ignored"].meaning.startswith("leave out pixels with an ignored label")


# Targets


def test_old_names_of_targets_work_and_warn() -> None:
    labels = torch.zeros(1, 4, 4).long()
    rows = SparseEdgeMask.of(EdgeRule(3).edges(labels, 2, (4, 4)))
    with pytest.warns(DeprecationWarning, match=r"Target\(labels, rows\)"):
        assert LabelledEdges(labels, rows).rows is Target(labels, rows).sparse_edges
    edge = torch.zeros(1, 1, 4, 4)
    with pytest.warns(DeprecationWarning, match="edge_map"):
        assert Target.of(EdgeMaps(edge)).edge_map is edge


def test_own_terms_is_the_old_name_of_critic_terms() -> None:
    with pytest.warns(DeprecationWarning, match="critic_terms"):

        class Old(Distiller):
            own_terms = frozenset({"critic"})

    assert Old.critic_terms == {"critic"}
