"""The plain network as a file that runs without bpkd."""

from .student import to_onnx, to_torchscript

__all__ = ["to_onnx", "to_torchscript"]
