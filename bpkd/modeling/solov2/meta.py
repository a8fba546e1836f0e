"""SOLOv2: backbone with pyramid, instance head and mask head, in Detectron2's batch format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import BitMasks, ImageList, Instances, PolygonMasks
from torch import Tensor, nn

from bpkd.modeling.preprocessing import check_format, file_names, normalised
from bpkd.structures import GridTargets, SOLOv2Outputs
from bpkd.tasks import INSTANCE
from bpkd.transfer import send

from .deform import rename_old_offsets
from .heads import InstanceHead, MaskHead
from .losses import NORMALIZERS, category_loss, mask_loss
from .postprocess import Detection, detect
from .targets import GridAssigner, ImageInstances


@META_ARCH_REGISTRY.register()
class SOLOv2(nn.Module):
    """SOLOv2 network for instance segmentation: each grid cell predicts a class and the kernel of a mask.

    The state dict has the keys ``backbone.*``, ``ins_head.*`` and ``mask_head.*``.

    Attributes:
        task: The task that the network solves.
        num_classes: Number of classes K.
        strides: Nominal stride of each level.
        assigner: `GridAssigner` of instances to grid cells.
        source_format: Colour order of the loader's images; an item's own ``image_format`` takes precedence.
    """

    task = INSTANCE
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        ins_head: InstanceHead,
        mask_head: MaskHead,
        in_features: Sequence[str],
        mask_in_features: Sequence[str],
        scale_ranges: Sequence[Sequence[float]],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        sigma: float = 0.2,
        focal: tuple[float, float] = (0.25, 2.0),
        weights: tuple[float, float] = (1.0, 3.0),
        normalizer: str = "pairs",
        detection: Detection | None = None,
    ) -> None:
        """Joins the parts.

        Args:
            backbone: Network from images to a feature pyramid, with Detectron2's ``output_shape``.
            ins_head: Head of category logits and kernels, which reads ``in_features``.
            mask_head: Head of mask features, which reads ``mask_in_features``.
            in_features: Names of the maps that the instance head reads, stride 4 first.
            mask_in_features: Names of the maps that the mask head reads, stride 4 first.
            scale_ranges: Range (low, high) of instance sizes per level, see `GridAssigner`.
            pixel_mean: Mean pixel value per channel, in the order of ``input_format``.
            pixel_std: Standard deviation of the pixel values per channel.
            input_format: Colour order that the network expects, "RGB" or "BGR".
            sigma: Ratio of the size of an instance's centre region to that of its box.
            focal: Parameters alpha and gamma of the focal category loss.
            weights: Factors on the category loss and the mask loss.
            normalizer: Divisor of the mask loss, "pairs" or "per_cell", see `mask_loss`.
            detection: Thresholds and limits of the detections; None: the defaults.

        Raises:
            ValueError: a map does not exist, the first of a head does not have stride 4, or an option is unknown.
        """
        super().__init__()
        if normalizer not in NORMALIZERS:
            raise ValueError(f"MODEL.SOLOV2.NORMALIZER: expected one of {', '.join(NORMALIZERS)}, got {normalizer!r}.")
        self.backbone, self.ins_head, self.mask_head = backbone, ins_head, mask_head
        self.in_features, self.mask_in_features = tuple(in_features), tuple(mask_in_features)
        stride = _strides(backbone, self.in_features, self.mask_in_features)
        self.strides = (2 * stride[0], *stride[1:-1], stride[-2])  # the first map is halved, the last one enlarged
        self.num_classes = ins_head.num_classes
        self.assigner = GridAssigner(
            num_classes=self.num_classes, num_grids=ins_head.num_grids, scale_ranges=scale_ranges, sigma=sigma
        )
        self.focal, self.weights, self.normalizer = focal, weights, normalizer
        self.detection = detection or Detection()
        self.input_format = self.source_format = check_format(input_format)
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            stats = torch.tensor([float(v) for v in values]).view(-1, 1, 1)
            self.register_buffer(name, stats, persistent=False)
        self.register_load_state_dict_pre_hook(rename_old_offsets)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds the parts of MODEL.BACKBONE and MODEL.SOLOV2."""
        node, backbone = cfg.MODEL.SOLOV2, build_backbone(cfg)
        shapes = backbone.output_shape()
        _strides(backbone, node.IN_FEATURES, node.MASK_IN_FEATURES)
        return {
            "backbone": backbone,
            "ins_head": InstanceHead(
                in_channels=shapes[node.IN_FEATURES[0]].channels,
                num_classes=node.NUM_CLASSES,
                num_grids=node.NUM_GRIDS,
                kernel_channels=node.KERNEL_CHANNELS,
                channels=node.CHANNELS,
                num_convs=node.NUM_CONVS,
                norm=node.NORM,
                dcn=node.DCN,
            ),
            "mask_head": MaskHead(
                in_channels=shapes[node.MASK_IN_FEATURES[0]].channels,
                num_levels=len(node.MASK_IN_FEATURES),
                out_channels=node.KERNEL_CHANNELS,
                channels=node.MASK_CHANNELS,
                norm=node.NORM,
                dcn=node.MASK_DCN,
            ),
            "in_features": node.IN_FEATURES,
            "mask_in_features": node.MASK_IN_FEATURES,
            "scale_ranges": node.SCALE_RANGES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "sigma": node.SIGMA,
            "focal": (node.FOCAL_ALPHA, node.FOCAL_GAMMA),
            "weights": (node.CATEGORY_WEIGHT, node.MASK_WEIGHT),
            "normalizer": node.NORMALIZER,
            "detection": detection_options(cfg),
        }

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.pixel_mean.device

    def accelerate(self, *, channels_last: bool = False, compiled: bool = False) -> None:
        """Chooses the memory layout, see `bpkd.modeling.DenseModel.accelerate`.

        Raises:
            ValueError: ``compiled`` is True.
        """
        if compiled:
            raise ValueError("MODEL.COMPILE: expected False for SOLOv2, whose images differ in size, got True.")
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def drop_auxiliary(self) -> None:
        """Does nothing: there is no auxiliary head."""

    def preprocess(self, batch: Sequence[dict[str, Any]]) -> ImageList:
        """Returns the images in the network's colour order, normalised, padded with 0 to what the pyramid requires."""
        return ImageList.from_tensors(normalised(batch, self), self.backbone.size_divisibility)

    def raw_outputs(self, images: Tensor) -> SOLOv2Outputs:
        """Maps normalised, padded images [N, 3, H, W] to the outputs that losses, distillers and `detect` read."""
        pyramid = self.backbone(images)
        logits, kernels = self.ins_head([pyramid[name] for name in self.in_features])
        features, towers = self.mask_head([pyramid[name] for name in self.mask_in_features])
        return SOLOv2Outputs(tuple(logits), tuple(kernels), features, tuple(towers))

    def assign(self, instances: Sequence[Instances], canvas: tuple[int, int]) -> GridTargets:
        """Assigns labelled instances to this network's grid cells.

        Args:
            instances: Instances of each image, with ``gt_boxes``, ``gt_classes`` and ``gt_masks`` (bitmasks or
                polygons) in pixels of the network's input.
            canvas: (height, width) of the padded batch.
        """
        return self.assigner([image_instances(one, self.device) for one in instances], canvas)

    def losses(self, outputs: SOLOv2Outputs, targets: GridTargets) -> dict[str, Tensor]:
        """Returns ``loss_category`` and ``loss_mask``, weights applied."""
        alpha, gamma = self.focal
        return {
            "loss_category": self.weights[0]
            * category_loss(outputs.category_logits, targets, alpha=alpha, gamma=gamma),
            "loss_mask": self.weights[1] * mask_loss(outputs, targets, normalizer=self.normalizer),
        }

    def forward(self, batch: Sequence[dict[str, Any]]) -> Any:
        """Runs one batch in Detectron2's format.

        Returns:
            In training a dict of losses. In evaluation one dict per image with ``instances``, at the size of the item's
            ``height`` and ``width`` if given, else at the image's.

        Raises:
            ValueError: in training, an item has no ``instances``.
        """
        images = self.preprocess(batch)
        if not self.training:
            return self.detect(self.raw_outputs(images.tensor), images.image_sizes, batch)
        targets = self.targets(batch, images)
        return self.losses(self.raw_outputs(images.tensor), targets)

    def targets(self, batch: Sequence[dict[str, Any]], images: ImageList) -> GridTargets:
        """Assigns the labelled instances of a training batch to grid cells.

        Raises:
            ValueError: an item has no ``instances``.
        """
        for item, name in zip(batch, file_names(batch), strict=True):
            if "instances" not in item:
                raise ValueError(f"{name}: expected 'instances' for training, got none. Return them from the mapper.")
        canvas = int(images.tensor.shape[-2]), int(images.tensor.shape[-1])
        return self.assign([item["instances"] for item in batch], canvas)

    def detect(
        self, outputs: SOLOv2Outputs, sizes: Sequence[tuple[int, int]], batch: Sequence[dict[str, Any]]
    ) -> list[dict[str, Instances]]:
        """Returns the detected instances of every image; ``sizes`` are those of the images without padding."""
        results = []
        for i, (content, item) in enumerate(zip(sizes, batch, strict=True)):
            height, width = int(content[0]), int(content[1])
            size = int(item.get("height", height)), int(item.get("width", width))
            found = detect(outputs, i, content=(height, width), size=size, strides=self.strides, options=self.detection)
            results.append({"instances": found})
        return results


def image_instances(instances: Instances, device: torch.device) -> ImageInstances:
    """Moves labelled instances to a device and rasterises polygons; all fields may be missing if there are none.

    Raises:
        ValueError: instances have no masks, or masks of another type.
    """
    height, width = instances.image_size
    if not instances.get_fields() or not len(instances):  # without fields it has no length
        empty = torch.zeros(0, height, width, dtype=torch.bool, device=device)
        return ImageInstances(empty, torch.zeros(0, 4, device=device), torch.zeros(0, dtype=torch.int64, device=device))
    masks = instances.gt_masks if instances.has("gt_masks") else None
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width)
    if not isinstance(masks, BitMasks):
        raise ValueError(
            f"gt_masks: expected Detectron2's BitMasks or PolygonMasks, got {type(masks).__name__}. Labels need a "
            "segmentation."
        )
    boxes, classes = instances.gt_boxes.tensor, instances.gt_classes
    return ImageInstances(send(masks.tensor, device), send(boxes, device), send(classes, device))


def detection_options(cfg: CfgNode) -> Detection:
    """Reads the thresholds and limits of the detections from a config."""
    node = cfg.MODEL.SOLOV2
    return Detection(
        score_threshold=node.SCORE_THRESHOLD,
        mask_threshold=node.MASK_THRESHOLD,
        max_candidates=node.MAX_CANDIDATES,
        nms_pre=node.NMS_PRE,
        nms_kernel=node.NMS_KERNEL,
        nms_sigma=node.NMS_SIGMA,
        keep_threshold=node.KEEP_THRESHOLD,
        max_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


def _strides(backbone: Backbone, ins: Sequence[str], mask: Sequence[str]) -> list[int]:
    shapes = backbone.output_shape()
    unknown = [name for name in (*ins, *mask) if name not in shapes]
    if unknown:
        raise ValueError(
            f"MODEL.SOLOV2.IN_FEATURES, MASK_IN_FEATURES: expected maps of {', '.join(shapes)}, got {unknown[0]!r}. "
            "MODEL.BACKBONE.NAME build_deform_resnet_fpn_backbone has p2 to p6."
        )
    if shapes[ins[0]].stride != 4 or shapes[mask[0]].stride != 4:
        raise ValueError(
            f"MODEL.SOLOV2.IN_FEATURES, MASK_IN_FEATURES: expected a map of stride 4 first, got {ins[0]} and {mask[0]}."
        )
    return [shapes[name].stride for name in ins]
