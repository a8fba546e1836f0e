"""The plain network as a file that runs without bpkd."""

from bpkd.extras import need_detectron2

need_detectron2(__name__)

from .instances import solov2_to_onnx, solov2_to_torchscript
from .student import to_exported_program, to_onnx, to_torchscript

__all__ = ["solov2_to_onnx", "solov2_to_torchscript", "to_exported_program", "to_onnx", "to_torchscript"]
