"""SOLOv2 instance segmentation."""

from .backbone import EvalBatchNorm2d, build_deform_resnet_fpn_backbone, count_parameters
from .deform import ModulatedDeformConv2d
from .heads import InstanceHead, MaskHead
from .losses import category_loss, dice, mask_loss, pair_kernels
from .meta import SOLOv2, image_instances
from .nms import matrix_nms, point_nms
from .postprocess import Detection, detect, full_masks
from .targets import GridAssigner, ImageInstances

__all__ = [
    "Detection",
    "EvalBatchNorm2d",
    "GridAssigner",
    "ImageInstances",
    "InstanceHead",
    "MaskHead",
    "ModulatedDeformConv2d",
    "SOLOv2",
    "build_deform_resnet_fpn_backbone",
    "category_loss",
    "count_parameters",
    "detect",
    "dice",
    "full_masks",
    "image_instances",
    "mask_loss",
    "matrix_nms",
    "pair_kernels",
    "point_nms",
]
