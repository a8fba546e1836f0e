"""Evaluation of networks on registered data sets."""

from bpkd.extras import need_detectron2

need_detectron2(__name__)

from .build import build_evaluator, check_metrics
from .cityscapes import CityscapesEvaluator
from .instances import InstanceEvaluator
from .semantic import SemanticEvaluator

__all__ = ["CityscapesEvaluator", "InstanceEvaluator", "SemanticEvaluator", "build_evaluator", "check_metrics"]
