"""The plain network as a file that runs without bpkd."""

from .student import to_exported_program, to_onnx, to_torchscript

__all__ = ["to_exported_program", "to_onnx", "to_torchscript"]
