"""What the training loader pins for a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from bpkd.data.batch import Batch
from bpkd.functional import SparseEdgeMask


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Addresses of the tensors that were pinned, by a copy as on a GPU's machine."""
    addresses: list[int] = []

    def pin(x: Tensor) -> Tensor:
        copy = x.clone()
        addresses.append(copy.data_ptr())
        return copy

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    return addresses


def test_images_labels_and_instances_are_pinned(pinned: list[int]) -> None:
    edges = SparseEdgeMask.from_dense(torch.ones(1, 2, 3, 4))
    labelled = Instances((3, 4), gt_masks=BitMasks(torch.ones(2, 3, 4)), gt_boxes=Boxes(torch.ones(2, 4)),
                         gt_classes=torch.tensor([5, 6]))  # fmt: skip
    item: dict[str, Any] = {"image": torch.ones(3, 3, 4), "sem_seg": torch.zeros(3, 4), "file_name": "a.png",
                            "instances": labelled, "edge_rows": edges, "empty": Instances((3, 4))}  # fmt: skip
    batch = Batch([item]).pin_memory()
    found = batch[0]
    moved = found["instances"]
    tensors = [found["image"], found["sem_seg"], moved.gt_masks.tensor, moved.gt_boxes.tensor, moved.gt_classes]
    assert isinstance(batch, Batch)
    assert [x.data_ptr() for x in tensors] == pinned
    assert torch.equal(moved.gt_masks.tensor, labelled.gt_masks.tensor)
    assert moved.image_size == (3, 4)
    assert moved.gt_classes.tolist() == [5, 6]
    assert found["file_name"] == "a.png"
    assert found["edge_rows"] is edges
    assert found["empty"].get_fields() == {}


def test_torch_pins_a_batch_by_its_own_method(pinned: list[int]) -> None:
    from torch.utils.data._utils.pin_memory import pin_memory

    pin_memory(Batch([{"instances": Instances((3, 4), gt_classes=torch.ones(2))}]))
    assert len(pinned) == 1
