"""Explains why a checkpoint does not fit a network, by architecture, depth, widths and classes of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bpkd.tasks import INSTANCE, SEMANTIC

from .architectures import RESNETS

# Number of classes -> data set, and its first class.
DATASETS = {
    11: ("CamVid", "sky"),
    19: ("Cityscapes", "road"),
    21: ("Pascal VOC", "background"),
    59: ("Pascal-Context-59", "aeroplane"),
    60: ("Pascal-Context-60", "background"),
    80: ("COCO", "person"),
    150: ("ADE20K", "wall"),
    171: ("COCO-Stuff", "person"),
}
# Marks of a part of a network, the more special ones first.
BACKBONES = {"stage4.": "HRNet", "layer7.": "MobileNetV2", "layer4.": "ResNet"}
HEADS = {
    "psp_modules.": "PSPNet",
    "c1_bottleneck.": "DeepLabV3+",
    "aspp_modules.": "DeepLabV3 (without plus)",
    "global_relation.": "ISANet",
    "convs.0.": "FCN",
}
HEAD_NAMES = {"PSPNet": "PSPHead", "DeepLabV3+": "DeepLabV3PlusHead", "ISANet": "ISAHead", "FCN": "FCNHead"}
Shapes = Mapping[str, tuple[int, ...]]


def likely_causes(file: Shapes, network: Shapes, names: Sequence[str] | None = None) -> list[str]:
    """Compares two networks by their keys and shapes.

    Args:
        file: Shapes of the checkpoint, keys with the prefixes ``backbone.``, ``decode_head.``, ``auxiliary_head.``.
        network: Shapes of the network that it does not fit.
        names: class names that the file states.

    Returns:
        One sentence with the setting to change for each difference found; empty where the networks are of no kind
        that is known here.
    """
    theirs, ours = traits(file), traits(network)
    if theirs["backbone"] and ours["backbone"] and theirs["backbone"] != ours["backbone"]:
        pair = f"the file has the backbone {theirs['backbone']}, the network {ours['backbone']}"
        found = [f"{pair} (MODEL.BACKBONE.NAME)"]
        keys = ["head", "classes"]
    else:
        found, keys = [], list(SENTENCES)
    if theirs["head"] != ours["head"]:
        keys = [k for k in keys if k != "channels"]
        if theirs["head"] is None or ours["head"] is None:
            kinds = [side["head"] or "one that is not known here" for side in (theirs, ours)]
            found.append(f"the decode heads differ: the file has {kinds[0]}, the network {kinds[1]}")
    for key in keys:
        if theirs[key] is not None and ours[key] is not None and theirs[key] != ours[key]:
            found.append(SENTENCES[key](theirs, ours, names))
    return found


def traits(shapes: Shapes) -> dict[str, Any]:
    """Returns the properties that follow from a network's keys and shapes, None for unknown ones."""
    backbone = _marked(shapes, "backbone.", BACKBONES)
    head = _marked(shapes, "decode_head.", HEADS)
    classifier, auxiliary = (shapes.get(f"{part}_head.conv_seg.weight") for part in ("decode", "auxiliary"))
    instance_head = shapes.get("ins_head.cate_pred.weight")
    return {
        "backbone": backbone,
        "stem": _stem(shapes) if backbone == "ResNet" else None,
        "depth": _depth(shapes) if backbone == "ResNet" else None,
        "width": (shapes.get("backbone.layer1.0.conv1.weight") or (None,))[0] if backbone == "ResNet" else None,
        "hrnet": _hrnet(shapes) if backbone == "HRNet" else None,
        "mobilenet": (shapes.get("backbone.conv1.conv.weight") or (None,))[0] if backbone == "MobileNetV2" else None,
        "head": head,
        "channels": classifier[1] if classifier else None,
        "classes": next((found[0] for found in (classifier, instance_head) if found), None),
        "class_key": (INSTANCE if instance_head else SEMANTIC).class_key,
        "auxiliary": (auxiliary is not None) if classifier else None,
        "auxiliary_channels": auxiliary[1] if auxiliary else None,
    }


def class_sentence(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Sequence[str] | None = None) -> str:
    """Names both numbers of classes and their data sets."""
    got, wanted = theirs["classes"], ours["classes"]
    return (
        f"checkpoint has {got} classes{_dataset(got, names)}, model has {wanted}{_dataset(wanted)}. Set "
        f"{ours['class_key']} to {got}, or use weights for {wanted} classes"
    )


def _marked(shapes: Shapes, prefix: str, marks: Mapping[str, str]) -> str | None:
    return next((kind for mark, kind in marks.items() if any(k.startswith(prefix + mark) for k in shapes)), None)


def _stem(shapes: Shapes) -> str | None:
    return _marked(shapes, "backbone.", {"stem.0.": "deep", "conv1.": "plain"})


def _count(shapes: Shapes, prefix: str) -> int:
    """Number of children below a prefix, from the highest index."""
    numbers = {k[len(prefix) :].split(".")[0] for k in shapes if k.startswith(prefix)}
    return max((int(n) + 1 for n in numbers if n.isdigit()), default=0)


def _depth(shapes: Shapes) -> int | None:
    counts = tuple(_count(shapes, f"backbone.layer{i}.") for i in range(1, 5))
    return RESNETS.get(("backbone.layer1.0.conv3.weight" in shapes, counts))


def _hrnet(shapes: Shapes) -> tuple[Any, ...]:
    """(width, blocks per branch, modules of stage 3, modules of stage 4)."""
    width = (shapes.get("backbone.stage2.0.branches.0.0.conv1.weight") or (None,))[0]
    blocks = _count(shapes, "backbone.stage2.0.branches.0.")
    return width, blocks, _count(shapes, "backbone.stage3."), _count(shapes, "backbone.stage4.")


def _hrnet_name(variant: tuple[Any, ...]) -> str:
    width, *counts = variant
    small = {(2, 3, 2): "-small (v2)", (2, 1, 1): "-small (v1)"}
    return f"HRNet-W{width}{small.get(tuple(counts), '')}"


def _dataset(count: int, names: Sequence[str] | None = None) -> str:
    known, first = DATASETS.get(count, ("", ""))
    if names and names[0].lower() != first:
        return f" ({', '.join(names[:4])}, ...)"
    return f" ({known})" if known else ""


def _stem_sentence(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Any) -> str:
    if theirs["stem"] == "plain":
        return (
            'the file has the plain 7x7 stem ("R18b", torchvision), the network the deep one ("R18c"): set '
            "MODEL.RESNET_V1C.DEEP_STEM False, or use weights of the deep stem"
        )
    return (
        'the file has the deep stem ("R18c"), the network the plain one ("R18b"): set MODEL.RESNET_V1C.DEEP_STEM True'
    )


def _head_sentence(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Any) -> str:
    name = HEAD_NAMES.get(theirs["head"])
    fix = f" (MODEL.SEM_SEG_HEAD.NAME {name})" if name else ", which is not offered here"
    return f"the file has the decode head of {theirs['head']}{fix}, the network that of {ours['head']}"


def _channel_sentence(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Any) -> str:
    got, wanted = theirs["channels"], ours["channels"]
    text = f"the file's decode head has {got} channels, the network's {wanted}: set MODEL.SEM_SEG_HEAD.CHANNELS {got}"
    if (theirs["backbone"], theirs["head"], got) == ("MobileNetV2", "DeepLabV3+", 128):
        text += " (the authors' Cityscapes student: configs/networks/deeplabv3plus_mv2_c128.yaml)"
    return text


def _auxiliary_sentence(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Any) -> str:
    if theirs["auxiliary"]:
        return "the file has an auxiliary head, the network none: set MODEL.AUX_HEAD.LOSS_WEIGHT 0.4"
    return "the file has no auxiliary head: set MODEL.AUX_HEAD.LOSS_WEIGHT 0.0"


SENTENCES: dict[str, Any] = {
    "stem": _stem_sentence,
    "depth": lambda t, o, _: (
        f"the file's backbone is a ResNet-{t['depth']}, the network's a ResNet-{o['depth']}: set "
        f"MODEL.RESNET_V1C.DEPTH {t['depth']}"
    ),
    "width": lambda t, o, _: (
        f"the file's first stage has {t['width']} channels, the network's {o['width']} "
        "(MODEL.RESNET_V1C.WIDTH_MULTIPLIER)"
    ),
    "hrnet": lambda t, o, _: (
        f"the file's backbone is {_hrnet_name(t['hrnet'])}, the network's {_hrnet_name(o['hrnet'])} "
        "(MODEL.HRNET.VARIANT; the paper's W18S is the small v2)"
    ),
    "mobilenet": lambda t, o, _: (
        f"the file's MobileNetV2 begins with {t['mobilenet']} channels, the network's with {o['mobilenet']} "
        "(MODEL.MOBILENET_V2.WIDTH_MULTIPLIER)"
    ),
    "head": _head_sentence,
    "channels": _channel_sentence,
    "classes": class_sentence,
    "auxiliary": _auxiliary_sentence,
    "auxiliary_channels": lambda t, o, _: (
        f"the file's auxiliary head has {t['auxiliary_channels']} channels, the network's {o['auxiliary_channels']}: "
        f"set MODEL.AUX_HEAD.CHANNELS {t['auxiliary_channels']}"
    ),
}
