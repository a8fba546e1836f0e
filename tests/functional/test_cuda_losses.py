"""Kernels, streams, CUDA graphs, golden networks and short trainings on a GPU: the items of the GPU sheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_sheet import correct
from benchmarks.gpu_sheet.items import Item, Settings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
ON_GPU = Settings("cuda", tiny=False, out=Path(), work=Path())
ITEMS = [item for item in correct.items(ON_GPU) if getattr(item.call, "func", None) is not correct.marked_tests]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_on_the_gpu(item: Item, tmp_path: Path) -> None:
    assert "failed" not in item.call(replace(ON_GPU, out=tmp_path, work=tmp_path), item.seconds)
