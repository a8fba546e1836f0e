"""Checkpoints: the student under ``model``, everything a resume needs beside it, written whole or not at all."""

from __future__ import annotations

import os
from typing import Any

import torch
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from bpkd.convert import load_safely
from bpkd.files import replacing, write_text

# What a checkpoint says of itself and a run that is resumed keeps -> its name in messages.
KEPT = {
    "method": "method",
    "classes": "classes",
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
    "input_format": "INPUT.FORMAT",
}


class StudentCheckpointer(Checkpointer):
    """Saves ``{"model": student, "bpkd": metadata, "trainer": ..., "distiller": ...}``.

    ``model`` is a plain state dict that the student's own config loads; teacher weights are never in the file.
    A file appears under its name only when it is complete, and only with finite weights.
    """

    def __init__(self, student: nn.Module, save_dir: str, *, metadata: dict[str, Any], **checkpointables: Any) -> None:
        """Sets up the checkpointer; only the main process writes."""
        super().__init__(student, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.metadata = metadata

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``<save_dir>/<name>.pth`` and points ``last_checkpoint`` at it.

        Raises:
            FloatingPointError: a weight is not finite; nothing is written, the last checkpoint stays.
        """
        if not self.save_to_disk:
            return
        model = self.model.state_dict()
        bad = [k for k, v in model.items() if v.is_floating_point() and not v.isfinite().all()]
        if bad:
            raise FloatingPointError(
                f"Checkpoint {name} refused: {len(bad)} tensors are not finite, first {bad[0]}. The last good "
                f"checkpoint is {self.get_checkpoint_file() or 'none'}."
            )
        data = {"model": model, "bpkd": self.metadata, **kwargs}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        path = os.path.join(self.save_dir, f"{name}.pth")
        with replacing(path) as part:
            torch.save(data, part)
        self.logger.info("Saved %s", path)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Points ``last_checkpoint`` at a file, atomically."""
        write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def resume(self, max_iter: int | None = None) -> dict[str, Any]:
        """Restores the last checkpoint of ``save_dir``, every part of it.

        Args:
            max_iter: iterations of the run, which the checkpoint must not have exceeded; None: any number.

        Raises:
            RuntimeError: the checkpoint belongs to another method or class list, or other pixel statistics, lacks a
                part, or was trained for more iterations than the run has.
        """
        path = self.get_checkpoint_file()
        try:
            data = load_safely(path, source="--resume")
        except ValueError as error:
            raise RuntimeError(
                f"{error} To go on from an earlier checkpoint, write the name of another model_*.pth of "
                f"{self.save_dir} into its file last_checkpoint."
            ) from error
        saved = {"method": None, "classes": None, **data.get("bpkd", {})}
        for key, name in KEPT.items():
            if key in saved and saved[key] != self.metadata.get(key):
                raise RuntimeError(
                    f"{path} was written with {name} {saved[key]!r}, this run has {self.metadata.get(key)!r}. "
                    "Resume with the config it was started with, or choose another OUTPUT_DIR."
                )
        missing = [k for k in ("model", *self.checkpointables) if k not in data]
        if missing:
            raise RuntimeError(
                f"{path} holds no {', '.join(missing)}: it cannot be resumed. Give it as MODEL.WEIGHTS to start "
                "a new run from its weights."
            )
        done = data.get("trainer", {}).get("iteration", -1) + 1
        if max_iter is not None and done > max_iter:
            raise RuntimeError(
                f"SOLVER.MAX_ITER: expected at least the {done} iterations of {path}, got {max_iter}. "
                "Its figures would be recorded as those of a shorter run: evaluate it with bpkd eval, or train anew in "
                "another OUTPUT_DIR."
            )
        self.model.load_state_dict(data["model"])
        for key, obj in self.checkpointables.items():
            obj.load_state_dict(data[key])
        self.logger.info("Resumed from %s", path)
        return data
