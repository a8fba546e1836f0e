"""Checkpoints from disk into networks, strictly. Pure PyTorch."""

from .checkpoint import Checkpoint, load_safely, read_checkpoint
from .strict import CheckpointError, LoadedWeights, load_strict

__all__ = ["Checkpoint", "CheckpointError", "LoadedWeights", "load_safely", "load_strict", "read_checkpoint"]
