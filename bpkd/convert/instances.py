"""Names of SOLOv2 and of Detectron2's ResNet in other projects' files: patterns for `bpkd.convert.rules`."""

from __future__ import annotations

Rule = tuple[str, str | None]

COUNTERS: Rule = (r".*\.num_batches_tracked$", None)
# Convolutions of a branch at most; mmdetection numbers them, ours stand among norms and ReLUs.
TOWER = 8


def _resnet(prefix: str, ours: str) -> list[Rule]:
    rules: list[Rule] = [
        (rf"{prefix}conv1\.", f"{ours}stem.conv1."),
        (rf"{prefix}bn1\.", f"{ours}stem.conv1.norm."),
    ]
    for layer in range(1, 5):
        block = rf"{prefix}layer{layer}\.(\d+)\."
        stage = rf"{ours}res{layer + 1}.\1."
        rules += [
            (rf"{block}conv2_offset\.", f"{stage}conv2.conv_offset."),  # mmcv before version 2
            (rf"{block}conv(\d)\.", rf"{stage}conv\2."),
            (rf"{block}bn(\d)\.", rf"{stage}conv\2.norm."),
            (rf"{block}downsample\.0\.", f"{stage}shortcut."),
            (rf"{block}downsample\.1\.", f"{stage}shortcut.norm."),
        ]
    return rules


def _neck() -> list[Rule]:
    return [
        (rf"neck\.{theirs}_convs\.{i}\.conv\.", f"backbone.fpn_{ours}{i + 2}.")
        for theirs, ours in (("lateral", "lateral"), ("fpn", "output"))
        for i in range(4)
    ]


def _tower(theirs: str, ours: str) -> list[Rule]:
    rules: list[Rule] = []
    for n in range(TOWER):
        rules += [
            (rf"{theirs}\.{n}\.conv\.", f"{ours}.{3 * n}."),
            (rf"{theirs}\.{n}\.conv_offset\.", f"{ours}.{3 * n}.conv_offset."),
            (rf"{theirs}\.{n}\.gn\.", f"{ours}.{3 * n + 1}."),
        ]
    return rules


def _unit(theirs: str, ours: str) -> list[Rule]:
    return [
        (rf"{theirs}\.conv\.", f"{ours}.0."),
        (rf"{theirs}\.conv_offset\.", f"{ours}.0.conv_offset."),
        (rf"{theirs}\.gn\.", f"{ours}.1."),
    ]


def _solov2(head: str, names: tuple[str, str, str], mask: str, last: str) -> tuple[Rule, ...]:
    towers, category, kernel = names
    level = r"convs_all_levels\.(\d+)\.conv(\d+)"
    return (
        COUNTERS,
        *_resnet(r"backbone\.", "backbone.bottom_up."),
        *_neck(),
        *_tower(rf"{head}\.{towers}", "ins_head.cate_tower"),
        *_tower(rf"{head}\.kernel_convs", "ins_head.kernel_tower"),
        (rf"{head}\.{category}\.", "ins_head.cate_pred."),
        (rf"{head}\.{kernel}\.", "ins_head.kernel_pred."),
        *_unit(rf"{mask}\.{level}", r"mask_head.convs_all_levels.\1.conv\2"),
        *_unit(rf"{mask}\.{last}", "mask_head.conv_pred"),
    )


MMDET_SOLOV2 = _solov2(
    "mask_head", ("cls_convs", "conv_cls", "conv_kernel"), r"mask_head\.mask_feature_head", "conv_pred"
)
AUTHORS_SOLOV2 = _solov2("bbox_head", ("cate_convs", "solo_cate", "solo_kernel"), "mask_feat_head", r"conv_pred\.0")
# From the names of torchvision's ResNet, which our own ResNet shares, to Detectron2's.
DETECTRON2_RESNET = (COUNTERS, *_resnet("", ""))


def _from_detectron2() -> tuple[Rule, ...]:
    rules: list[Rule] = [
        (r"stem\.conv1\.norm\.", "bn1."),
        (r"stem\.conv1\.", "conv1."),
        (r"(stem\.)?(fc|linear)\.", None),
    ]
    for layer in range(1, 5):
        block, stage = rf"res{layer + 1}\.(\d+)\.", rf"layer{layer}.\1."
        rules += [
            (rf"{block}conv(\d)\.norm\.", rf"{stage}bn\2."),
            (rf"{block}conv(\d)\.", rf"{stage}conv\2."),
            (rf"{block}shortcut\.norm\.", f"{stage}downsample.1."),
            (rf"{block}shortcut\.", f"{stage}downsample.0."),
        ]
    return tuple(rules)


# From Detectron2's names of a ResNet to torchvision's.
FROM_DETECTRON2 = _from_detectron2()
