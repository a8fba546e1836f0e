"""Tables of patterns that map the keys of other projects' files to those of this package; the first match counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .architectures import MOBILENET_V2_BLOCKS
from .instances import AUTHORS_SOLOV2, DETECTRON2_RESNET, FROM_DETECTRON2, MMDET_SOLOV2

KEEP = r"\g<0>"
RESNET_KEYS = (r"(conv1|bn1|layer[1-4])\.", KEEP)
V1C_KEYS = (r"(stem|layer[1-4])\.", KEEP)
HRNET_RULES = (
    (r"(conv[12]|bn[12]|layer1|transition[1-3]|stage[2-4])\.", KEEP),
    (r"(incre_modules|downsamp_modules|final_layer|classifier)\.", None),
)
POOLED_SHORTCUT = (
    r"(backbone\.)?layer\d\.\d+\.downsample\.2\.",
    "its shortcuts pool before the 1x1 convolution (ResNet-D), which our ResNet does not: its weights would load and "
    "compute something else. Use the plain or the 'c' variant",
)
CAFFE_RESNET = (
    r"conv1_w$",
    "it has its strides in the 1x1 convolutions and no statistics of its normalisation, and expects BGR without a "
    "deviation: here it would compute something else. Use Detectron2's ImageNetPretrained/torchvision/R-50.pkl or "
    "R-101.pkl, or torchvision's own file",
)
Rule = tuple[str, str | None]


@dataclass(frozen=True)
class RuleSet:
    """How one project names the weights of one kind of network."""

    source: str
    """Name for ``--source``."""

    label: str
    needs: tuple[str, ...]
    """Patterns; a file with a key for each of them is of this kind."""

    rules: tuple[Rule, ...]
    """(pattern of a key, its replacement); the replacement None drops the key."""

    part: str = "backbone"
    """"backbone" or "network"."""

    refuse: tuple[str, str] | None = None
    """Pattern of a key that we have no counterpart for, and why."""


@dataclass(frozen=True)
class Renamed:
    """Weights under our names."""

    state: dict[str, Tensor]
    mapped: dict[str, str]
    """Their key -> ours, of every weight that a rule names."""

    dropped: tuple[str, ...]
    """Keys left out on purpose: the classifier of ImageNet files."""

    left_over: tuple[str, ...]
    """Keys that no rule names; in ``state`` under their own names, so that a strict check meets them."""


class RuleError(ValueError):
    """A file is of no known kind, of another kind than it was said to be, or of one that cannot be converted."""


def recognise(keys: Iterable[str], source: str = "auto") -> RuleSet:
    """Finds the rules for a file.

    Args:
        keys: Keys of the file's state dict.
        source: one of `SOURCES`; "auto" tries all.

    Returns:
        The first set whose `needs` the keys fulfil.

    Raises:
        RuleError: there is none; the message names the kind that the file seems to be.
    """
    names = list(keys)
    found = [rules for rules in RULE_SETS if _fits(names, rules)]
    for rules in found:
        if source in ("auto", rules.source):
            return rules
    kinds = [r.label for r in RULE_SETS if source == r.source] or ["a file of OpenMMLab, torchvision, timm or HRNet"]
    looks = f" It looks like {found[0].label}: --source {found[0].source}." if found else ""
    raise RuleError(f"expected {' or '.join(kinds)}, got keys like {', '.join(names[:4]) or 'none'}.{looks}")


def rename(state: Mapping[str, Tensor], rules: RuleSet) -> Renamed:
    """Applies a rule set.

    Args:
        state: their weights.
        rules: Rules of `recognise`.

    Returns:
        Our weights in the order of theirs.

    Raises:
        RuleError: the set refuses one of the keys, or two keys get one name.
    """
    if rules.refuse and (key := next((k for k in state if re.match(rules.refuse[0], k)), None)):
        raise RuleError(f"{rules.label} with {key} cannot be converted: {rules.refuse[1]}.")
    out: dict[str, Tensor] = {}
    mapped: dict[str, str] = {}
    dropped, left_over = [], []
    for key, value in state.items():
        matches = ((re.match(pattern, key), replacement) for pattern, replacement in rules.rules)
        match, replacement = next(((m, r) for m, r in matches if m), (None, None))
        if match and replacement is None:
            dropped.append(key)
            continue
        if match and replacement is not None:
            mapped[key] = match.expand(replacement) + key[match.end() :]
        else:
            left_over.append(key)
        name = mapped.get(key, key)
        if name in out:
            raise RuleError(f"{rules.label}: two keys of the file mean {name}, one of them {key}.")
        out[name] = value
    return Renamed(out, mapped, tuple(dropped), tuple(left_over))


def _fits(keys: list[str], rules: RuleSet) -> bool:
    return all(any(re.match(pattern, key) for key in keys) for pattern in rules.needs)


def _torchvision_mobilenet() -> tuple[Rule, ...]:
    rules: list[Rule] = [(r"features\.0\.0\.", "conv1.conv."), (r"features\.0\.1\.", "conv1.bn.")]
    rules += [(r"features\.18\.", None), (r"classifier\.", None)]
    index = 0
    for stage, count in enumerate(MOBILENET_V2_BLOCKS, start=1):
        # Each activation is wrapped with its convolution; the last, linear convolution stands alone.
        names = ("0.0", "0.1", "1", "2") if stage == 1 else ("0.0", "0.1", "1.0", "1.1", "2", "3")
        for block in range(count):
            index += 1
            for i, name in enumerate(names):
                ours = f"layer{stage}.{block}.conv.{i // 2}.{('conv', 'bn')[i % 2]}."
                rules.append((rf"features\.{index}\.conv\.{re.escape(name)}\.(?=[a-z])", ours))
    return tuple(rules)


def _timm_mobilenet() -> tuple[Rule, ...]:
    rules: list[Rule] = [(r"conv_stem\.", "conv1.conv."), (r"bn1\.", "conv1.bn.")]
    rules += [(r"(conv_head|bn2|classifier)\.", None)]
    for stage in range(1, len(MOBILENET_V2_BLOCKS) + 1):
        # The first stage does not expand: its 1x1 convolution is the projection.
        parts = ("conv_dw", "conv_pw") if stage == 1 else ("conv_pw", "conv_dw", "conv_pwl")
        for i, part in enumerate(parts):
            block = rf"blocks\.{stage - 1}\.(\d+)\."
            rules.append((rf"{block}{part}\.", rf"layer{stage}.\1.conv.{i}.conv."))
            rules.append((rf"{block}bn{i + 1}\.", rf"layer{stage}.\1.conv.{i}.bn."))
    return tuple(rules)


def _v1c_stem(style: dict[str, int]) -> tuple[Rule, ...]:
    return tuple((rf"(?:backbone\.)?{re.escape(theirs)}\.", f"stem.{ours}.") for theirs, ours in style.items())


_TIMM_STEM = {"conv1.0": 0, "conv1.1": 1, "conv1.3": 3, "conv1.4": 4, "conv1.6": 6, "bn1": 7}
_MMPOSE_STEM = {"stem.0.conv": 0, "stem.0.bn": 1, "stem.1.conv": 3, "stem.1.bn": 4, "stem.2.conv": 6, "stem.2.bn": 7}
_HEADS: Rule = (r"(head|neck|fc)\.", None)


def _unprefixed(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Accepts an optional ``backbone.`` before each pattern and removes it."""
    return tuple((rf"(?:backbone\.)?(?P<k>{p})", r"\g<k>" if r == KEEP else r) for p, r in rules)


# In this order: a file of several kinds is of the first.
RULE_SETS = (
    RuleSet("mmdet", "mmdetection's SOLOv2", (r"backbone\.", r"mask_head\.mask_feature_head\."),
            MMDET_SOLOV2, "network"),
    RuleSet("solo", "the SOLOv2 of its authors", (r"backbone\.", r"mask_feat_head\.", r"bbox_head\.solo_cate\."),
            AUTHORS_SOLOV2, "network"),
    RuleSet("mmseg", "a segmentation network of OpenMMLab", (r"backbone\.", r"decode_head\."),
            ((r"(backbone|decode_head|auxiliary_head)\.", KEEP),), "network"),
    RuleSet("torchvision", "torchvision's MobileNetV2", (r"features\.0\.0\.", r"features\.17\.conv\."),
            _torchvision_mobilenet()),
    RuleSet("timm", "timm's MobileNetV2", (r"conv_stem\.", r"blocks\.6\."), _timm_mobilenet()),
    RuleSet("mmcls", "OpenMMLab's MobileNetV2", (r"(backbone\.)?conv1\.conv\.", r"(backbone\.)?layer7\."),
            (*_unprefixed(((r"(conv1|layer[1-7])\.", KEEP), (r"conv2\.", None))), _HEADS)),
    RuleSet("hrnet", "HRNet (its authors' or timm's)", (r"transition1\.", r"stage4\."), HRNET_RULES),
    RuleSet("mmcls", "OpenMMLab's HRNet", (r"(backbone\.)?transition1\.", r"(backbone\.)?stage4\."),
            (*_unprefixed(HRNET_RULES), _HEADS)),
    RuleSet("timm", "timm's ResNet with a deep stem ('c')", (r"conv1\.0\.", r"layer4\."),
            (*_v1c_stem(_TIMM_STEM), (r"layer[1-4]\.", KEEP), (r"fc\.", None)), refuse=POOLED_SHORTCUT),
    RuleSet("detectron2", "Detectron2's ResNet", (r"stem\.conv1\.weight", r"res5\."), FROM_DETECTRON2),
    RuleSet("detectron2", "Caffe2's ResNet (MSRA, Detectron1)", (r"conv1_w$", r"res5_0_branch2a_w$"), (),
            refuse=CAFFE_RESNET),
    RuleSet("mmcls", "OpenMMLab's ResNetV1c, named as in mmpose", (r"(backbone\.)?stem\.0\.conv\.",),
            (*_v1c_stem(_MMPOSE_STEM), *_unprefixed(((r"layer[1-4]\.", KEEP),)), _HEADS), refuse=POOLED_SHORTCUT),
    RuleSet("mmcls", "OpenMMLab's ResNetV1c", (r"(backbone\.)?stem\.0\.weight", r"(backbone\.)?layer4\."),
            (*_unprefixed((V1C_KEYS,)), _HEADS), refuse=POOLED_SHORTCUT),
    RuleSet("torchvision", "torchvision's ResNet", (r"conv1\.weight", r"layer4\."),
            (RESNET_KEYS, (r"fc\.", None)), refuse=POOLED_SHORTCUT),
    RuleSet("timm", "timm's ResNet", (r"conv1\.weight", r"layer4\."),
            (RESNET_KEYS, (r"fc\.", None)), refuse=POOLED_SHORTCUT),
    RuleSet("mmcls", "OpenMMLab's ResNet", (r"(backbone\.)?conv1\.weight", r"(backbone\.)?layer4\."),
            (*_unprefixed((RESNET_KEYS,)), _HEADS), refuse=POOLED_SHORTCUT),
)  # fmt: skip
# Our own keys, whatever the network.
OWN = {part: RuleSet("bpkd", f"a {part} of ours", (), ((r"", KEEP),), part) for part in ("network", "backbone")}
# From our names of a ResNet to those of Detectron2's.
DETECTRON2 = RuleSet("detectron2", "Detectron2's ResNet", (), DETECTRON2_RESNET)
SOURCES = ("auto", "mmseg", "mmdet", "solo", "torchvision", "timm", "mmcls", "hrnet", "detectron2", "bpkd")
