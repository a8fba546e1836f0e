"""Keys of the networks for label maps."""

from __future__ import annotations

from bpkd.config.kinds import (
    ABOVE_0,
    ANY_NUMBER,
    COUNT,
    FLAG,
    PATH,
    TEXT,
    TEXTS,
    WEIGHT,
    Choice,
    Kind,
    ListOf,
    Number,
    Text,
    whole,
)  # fmt: skip
from bpkd.ranges import Range

from .key import DETECTRON2, Key

FILLED = Text(filled=True)
NORM = Choice(("BN", "SyncBN", "FrozenBN"))
STRIDE = Choice((8, 16, 32))


def _of(node: str, *names: str) -> tuple[str, tuple[str, ...]]:
    return f"MODEL.{node}", names


RESNET, HRNET = _of("BACKBONE.NAME", "build_resnet_v1c_backbone"), _of("BACKBONE.NAME", "build_hrnet_backbone")
MOBILENET = _of("BACKBONE.NAME", "build_mobilenet_v2_backbone")

NETWORK = (
    Key("MODEL.META_ARCHITECTURE", "BPKDSemanticSegmentor", FILLED,
        "What is trained: a network alone (BPKDSemanticSegmentor, SOLOv2, ModuleSegmentor, ...), or DISTILL.STUDENT "
        "with a teacher (SemanticDistiller, InstanceDistiller)."),
    Key("MODEL.WEIGHTS", DETECTRON2, PATH, "Checkpoint that the student starts from, or is evaluated with."),
    Key("MODEL.DEVICE", DETECTRON2, FILLED, "cpu, cuda or cuda:N."),
    Key("MODEL.BACKBONE.NAME", "build_resnet_v1c_backbone", FILLED, "Registered builder of the backbone."),
    Key("MODEL.BACKBONE.WEIGHTS", "", PATH,
        "ImageNet weights of the backbone, where a run starts without MODEL.WEIGHTS (docs/how_to/checkpoints.md). A "
        "converted file or one as OpenMMLab, torchvision, timm or HRNet publish it. Empty: from scratch (the "
        "supplement's Table 1)."),
    Key("MODEL.FILE_STATEMENTS", "refuse", Choice(("refuse", "warn")),
        "What happens where a file of weights states other pixel statistics, colour order or class names than the "
        "config: it is refused, or loaded with a warning (MODEL.WEIGHTS, MODEL.BACKBONE.WEIGHTS; a teacher's in its "
        "own config)."),
    Key("MODEL.CHANNELS_LAST", False, FLAG,
        "Memory layout with the channels of a pixel side by side: faster on GPUs with mixed precision, and on CPUs."),
    Key("MODEL.COMPILE", False, FLAG,
        "Run the network through torch.compile: long first iterations, then faster ones."),
    Key("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], ListOf(ANY_NUMBER, length=3),
        "Means of the three channels in INPUT.FORMAT's order, of pixels from 0 to 255."),
    Key("MODEL.PIXEL_STD", [58.395, 57.12, 57.375], ListOf(ABOVE_0, length=3),
        "Standard deviations of the three channels in INPUT.FORMAT's order, of pixels from 0 to 255."),
)  # fmt: skip

BACKBONES = (
    # Dilated ResNet of OpenMMLab's segmentation networks (`build_resnet_v1c_backbone`).
    Key("MODEL.RESNET_V1C.DEPTH", 50, Choice((18, 34, 50, 101, 152)), "Layers of the ResNet.", RESNET),
    Key("MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 1.0, ABOVE_0,
        "Factor on all channel counts. 1.0 is the paper's network, less gives small ones for CPUs and tests.", RESNET),
    Key("MODEL.RESNET_V1C.DEEP_STEM", True, FLAG,
        'True: three 3x3 convolutions ("V1c"); False: one 7x7 (OpenMMLab\'s "r18b").', RESNET),
    Key("MODEL.RESNET_V1C.OUTPUT_STRIDE", 8, STRIDE, "Pixels of the image per position of the last stage.", RESNET),
    Key("MODEL.RESNET_V1C.NORM", "BN", NORM, "Normalisation layers.", RESNET),
    Key("MODEL.RESNET_V1C.ZERO_INIT_RESIDUAL", True, FLAG,
        "Start each residual block at the identity (last BN weight 0) where no weights are loaded.", RESNET),
    # HRNet (`build_hrnet_backbone`).
    Key("MODEL.HRNET.VARIANT", "w48", Choice(("w18s", "w18", "w32", "w40", "w48")), "Variant of HRNet.", HRNET),
    Key("MODEL.HRNET.WIDTH_MULTIPLIER", 1.0, ABOVE_0, "Factor on all channel counts.", HRNET),
    Key("MODEL.HRNET.NORM", "BN", NORM, "Normalisation layers.", HRNET),
    # MobileNetV2 (`build_mobilenet_v2_backbone`).
    Key("MODEL.MOBILENET_V2.WIDTH_MULTIPLIER", 1.0, ABOVE_0,
        "Factor on all channel counts, which are rounded to multiples of 8.", MOBILENET),
    Key("MODEL.MOBILENET_V2.OUTPUT_STRIDE", 8, STRIDE, "Pixels of the image per position of the last stage.",
        MOBILENET),
    Key("MODEL.MOBILENET_V2.NORM", "BN", NORM, "Normalisation layers.", MOBILENET),
)  # fmt: skip


def _head(name: str, default: object, kind: Kind, meaning: str, *heads: str) -> Key:
    key = f"MODEL.SEM_SEG_HEAD.{name}"
    return Key(key, default, kind, meaning, _of("SEM_SEG_HEAD.NAME", *heads) if heads else None)


HEADS = (
    _head("NAME", "PSPHead", FILLED, "PSPHead, FCNHead, DeepLabV3PlusHead or ISAHead."),
    _head("IN_FEATURES", ["layer4"], ListOf(FILLED, least=1),
          "Backbone stages that enter the decode head. PSP, ISA: the last. FCN: any, joined at the first one's size. "
          "DeepLabV3+: the low-level one, then the last."),
    _head("CHANNELS", 512, COUNT, "Channels of the decode head."),
    _head("NUM_CLASSES", 19, COUNT, "Number of classes K of label maps."),
    _head("IGNORE_VALUE", DETECTRON2, whole(0, 255),
          'Label of ignored pixels in the loss. bpkd\'s data sets use 255; DATASETS.FOLDER.IGNORE_INDEX is the one in '
          "your masks."),
    _head("NORM", "BN", FILLED, "Normalisation layers."),
    _head("DROPOUT", 0.1, Number(Range(0, below=1)), "Share of channels that dropout sets to 0."),
    _head("ALIGN_CORNERS", False, FLAG, "Whether scores are resized with aligned corners."),
    _head("POOL_SCALES", [1, 2, 3, 6], ListOf(COUNT, least=1), "PSPHead: sides of the pooling grids.", "PSPHead"),
    _head("KERNEL_SIZE", 3, COUNT, "FCNHead: side of the one convolution.", "FCNHead"),
    _head("ASPP_RATES", [1, 12, 24, 36], ListOf(COUNT, least=1), "DeepLabV3PlusHead: dilations of the pyramid.",
          "DeepLabV3PlusHead"),
    _head("LOW_LEVEL_CHANNELS", 48, COUNT,
          "DeepLabV3PlusHead: channels that the low-level stage is reduced to.", "DeepLabV3PlusHead"),
    _head("ATTENTION_CHANNELS", 256, COUNT, "ISAHead: channels of queries and keys.", "ISAHead"),
    _head("WINDOW", [8, 8], ListOf(COUNT, length=2), "ISAHead: window (height, width) in positions of the stage.",
          "ISAHead"),
    _head("LOSS_DENOMINATOR", "all", Choice(("all", "valid")),
          'Pixels that the mean of the pixel cross entropy is over. "all", ignored ones included (OpenMMLab, the '
          'paper\'s numbers), or the "valid" ones (torch\'s own mean).'),
    # Auxiliary FCN head, used in training only.
    Key("MODEL.AUX_HEAD.LOSS_WEIGHT", 0.4, WEIGHT, "Factor on the auxiliary head's loss. 0 builds no such head."),
    Key("MODEL.AUX_HEAD.IN_FEATURE", "layer3", FILLED, "Backbone stage that enters the auxiliary head."),
    Key("MODEL.AUX_HEAD.CHANNELS", 256, COUNT, "Channels of the auxiliary head."),
    # `ModuleSegmentor`: any torch.nn.Module.
    Key("MODEL.MODULE.FACTORY", "", TEXT,
        "ModuleSegmentor: what makes the torch.nn.Module, as package.module:callable. It maps [N, 3, H, W] to logits "
        '(a tensor, a dict with "out", or a SegOutput).'),
    Key("MODEL.MODULE.KWARGS", [], ListOf(ListOf(Kind(), length=2)),
        "ModuleSegmentor: keyword arguments as pairs [name, value]."),
)  # fmt: skip

# Detectron2's ResNet and feature pyramid, which SOLOv2 stands on.
PYRAMID_KEYS = (
    Key("MODEL.BACKBONE.FREEZE_AT", DETECTRON2, whole(0, 5), "Stages of Detectron2's ResNet that do not learn, with "
        "the stem."),
    Key("MODEL.RESNETS.DEPTH", DETECTRON2, Choice((18, 34, 50, 101, 152)), "Layers of Detectron2's ResNet."),
    Key("MODEL.RESNETS.OUT_FEATURES", DETECTRON2, TEXTS, "Stages that are given on."),
    Key("MODEL.RESNETS.NUM_GROUPS", DETECTRON2, COUNT, "Groups of the 3x3 convolutions; above 1: ResNeXt."),
    Key("MODEL.RESNETS.WIDTH_PER_GROUP", DETECTRON2, COUNT, "Channels of a group in the first stage."),
    Key("MODEL.RESNETS.NORM", DETECTRON2, TEXT, "Normalisation layers."),
    Key("MODEL.RESNETS.STRIDE_IN_1X1", DETECTRON2, FLAG,
        "Whether the 1x1 convolution has the stride (Caffe's weights), else the 3x3 one (torchvision's)."),
    Key("MODEL.RESNETS.RES5_DILATION", DETECTRON2, Choice((1, 2)), "Dilation of the last stage."),
    Key("MODEL.RESNETS.RES2_OUT_CHANNELS", DETECTRON2, COUNT, "Channels of the first stage; 64 for depth 18 and 34."),
    Key("MODEL.RESNETS.STEM_OUT_CHANNELS", DETECTRON2, COUNT, "Channels of the stem."),
    Key("MODEL.RESNETS.DEFORM_ON_PER_STAGE", DETECTRON2, ListOf(FLAG, length=4),
        "Which of the four stages have deformable convolutions."),
    Key("MODEL.RESNETS.DEFORM_MODULATED", DETECTRON2, FLAG, "Whether deformable convolutions are modulated (DCNv2)."),
    Key("MODEL.RESNETS.DEFORM_NUM_GROUPS", DETECTRON2, COUNT, "Groups of the offsets."),
    Key("MODEL.FPN.IN_FEATURES", DETECTRON2, TEXTS, "Stages that enter the feature pyramid."),
    Key("MODEL.FPN.OUT_CHANNELS", DETECTRON2, COUNT, "Channels of the feature pyramid."),
    Key("MODEL.FPN.NORM", DETECTRON2, TEXT, "Normalisation layers of the feature pyramid; empty: none."),
    Key("MODEL.FPN.FUSE_TYPE", DETECTRON2, Choice(("sum", "avg")), "How the levels of the pyramid are joined."),
)  # fmt: skip

KEYS = NETWORK + BACKBONES + HEADS + PYRAMID_KEYS
