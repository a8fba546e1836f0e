"""Evaluation of networks on registered data sets."""

from .build import build_evaluator
from .semantic import SemanticEvaluator

__all__ = ["SemanticEvaluator", "build_evaluator"]
