"""Networks, teacher and distillation wrapper. Importing this room registers them with Detectron2."""

from .backbones import HRNet, MobileNetV2, ResNetV1c
from .build import build_student, student_architecture
from .dense import DenseModel, InferenceOptions
from .distillation import SemanticDistiller, build_distiller
from .foreign import Detectron2Segmentor, ModuleSegmentor, as_dense
from .heads import DeepLabV3PlusHead, FCNHead, ISAHead, PSPHead, SegHead
from .losses import segmentation_loss
from .segmentor import SemanticSegmentor
from .teacher import FrozenTeacher, build_teacher, build_teacher_model, load_teacher_cfg

__all__ = [
    "DeepLabV3PlusHead",
    "DenseModel",
    "Detectron2Segmentor",
    "FCNHead",
    "FrozenTeacher",
    "HRNet",
    "ISAHead",
    "InferenceOptions",
    "MobileNetV2",
    "ModuleSegmentor",
    "PSPHead",
    "ResNetV1c",
    "SegHead",
    "SemanticDistiller",
    "SemanticSegmentor",
    "as_dense",
    "build_distiller",
    "build_student",
    "build_teacher",
    "build_teacher_model",
    "load_teacher_cfg",
    "segmentation_loss",
    "student_architecture",
]
