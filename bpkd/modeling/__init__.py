"""Networks, teachers and distillation wrappers. Importing this package registers them with Detectron2."""

from bpkd.extras import need_detectron2

need_detectron2(__name__)

from .backbones import HRNet, MobileNetV2, ResNetV1c
from .base import DenseModel, InferenceOptions
from .build import build_dense, build_solov2, build_student, student_architecture, task_of
from .build_distiller import build_distiller
from .distillation import SemanticDistiller
from .external import Detectron2Segmentor, ModuleSegmentor, as_dense
from .heads import DeepLabV3PlusHead, FCNHead, ISAHead, PSPHead, SegHead
from .old_names import old_name
from .segmentor import SemanticSegmentor
from .solov2 import SOLOv2
from .solov2.distillation import InstanceDistiller
from .solov2.teacher import FrozenSOLOv2, build_instance_teacher
from .teachers.build import build_teacher, build_teacher_model, build_teachers
from .teachers.combined import MeanTeacher, TeacherPanel
from .teachers.config import load_teacher_cfg
from .teachers.exported import ExportedInfo, ExportedSegmentor, load_exported
from .teachers.frozen import FrozenTeacher
from .wrapper import DistillationWrapper

__getattr__ = old_name

__all__ = [
    "DeepLabV3PlusHead",
    "DenseModel",
    "Detectron2Segmentor",
    "DistillationWrapper",
    "ExportedInfo",
    "ExportedSegmentor",
    "FCNHead",
    "FrozenSOLOv2",
    "FrozenTeacher",
    "HRNet",
    "ISAHead",
    "InferenceOptions",
    "InstanceDistiller",
    "MeanTeacher",
    "MobileNetV2",
    "ModuleSegmentor",
    "PSPHead",
    "SOLOv2",
    "ResNetV1c",
    "SegHead",
    "SemanticDistiller",
    "SemanticSegmentor",
    "TeacherPanel",
    "as_dense",
    "build_dense",
    "build_distiller",
    "build_instance_teacher",
    "build_solov2",
    "build_student",
    "build_teacher",
    "build_teacher_model",
    "build_teachers",
    "load_exported",
    "load_teacher_cfg",
    "student_architecture",
    "task_of",
]
