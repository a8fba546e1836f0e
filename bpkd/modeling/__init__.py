"""Networks, teacher and distillation wrapper. Importing this room registers them with Detectron2."""

from .backbones import ResNetV1c, build_resnet_v1c_backbone
from .build import build_student, student_architecture
from .dense import DenseModel, InferenceOptions
from .distillation import SemanticDistiller, build_distiller
from .foreign import Detectron2Segmentor, ModuleSegmentor, as_dense
from .heads import FCNHead, PSPHead, SegHead
from .losses import segmentation_loss
from .segmentor import SemanticSegmentor
from .teacher import FrozenTeacher, build_teacher, build_teacher_model, load_teacher_cfg

__all__ = [
    "DenseModel",
    "Detectron2Segmentor",
    "FCNHead",
    "FrozenTeacher",
    "InferenceOptions",
    "ModuleSegmentor",
    "PSPHead",
    "ResNetV1c",
    "SegHead",
    "SemanticDistiller",
    "SemanticSegmentor",
    "as_dense",
    "build_distiller",
    "build_resnet_v1c_backbone",
    "build_student",
    "build_teacher",
    "build_teacher_model",
    "load_teacher_cfg",
    "segmentation_loss",
    "student_architecture",
]
