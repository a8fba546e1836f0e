"""Writers of a run's scalars: metrics.json as every reader of JSON knows it, TensorBoard tags that stay apart."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from detectron2.utils.events import JSONWriter, TensorboardXWriter

from bpkd import text
from bpkd.files import json_text


class StrictJSONWriter(JSONWriter):
    """Detectron2's writer with null in place of nan and infinity, which JSON does not have."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """Opens the file to append to it."""
        super().__init__(json_file, window_size)
        file: Any = self.__dict__["_file_handle"]
        self._file_handle = _StrictLines(file)


class _StrictLines:
    """A file that takes lines of JSON as Python writes them."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, line: str) -> None:
        self.file.write(json_text(json.loads(line), indent=None) + "\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class TaggedWriter(TensorboardXWriter):
    """Detectron2's writer, with tags that are as different as the names of classes."""

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        class Tagged(SummaryWriter):
            def add_scalar(self, tag: str, *values: Any, **options: Any) -> None:
                super().add_scalar(text.tag(tag), *values, **options)

        return Tagged(**self._writer_args)
