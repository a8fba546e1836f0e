"""What the losses would do on a GPU, seen without one: on fake CUDA tensors, which have a device but no memory.

A copy from the CPU would wait for the GPU on every step, and a product of matrices may be rounded to TF32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bpkd.distillers import CIRKD
from bpkd.functional import boundary_kd, channel_kd, class_edge_mask, pixel_kd, upsampled_cross_entropy, use_backend
from bpkd.functional.reference.edges import _table
from bpkd.functional.structures import EdgeWindow
from bpkd.modeling.preprocessing import normalised
from bpkd.modeling.solov2.meta import image_instances
from bpkd.modeling.teachers import acceleration
from bpkd.structures import SegOutput
from tests.helpers.architecture import network

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount")
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addmv", "mv", "dot")


class Spy(TorchDispatchMode):
    """Collects what would wait for the GPU or be rounded to TF32."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        places = [{x.device.type for x in tree_leaves(tree) if isinstance(x, Tensor)} for tree in ((args, kwargs), out)]
        crosses = "cuda" in places[1] and "cpu" in places[0] and not (kwargs or {}).get("non_blocking")
        if crosses or "cpu" in places[1] or name in (*WAITING, *PRODUCTS):
            self.found.append(name)
        return out


@pytest.fixture
def maps() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Student, teacher and labels on a fake GPU."""
    with FakeTensorMode():
        student, teacher = (torch.empty(2, 40, 8, 9, device="cuda") for _ in range(2))
        yield student, teacher, torch.zeros(2, 64, 72, dtype=torch.long, device="cuda")


def masks(labels: Tensor, **options: Any) -> Tensor:
    with use_backend("eager"):
        return class_edge_mask(labels, 40, 7, (8, 9), **options)


CALLS: dict[str, Callable[[Tensor, Tensor, Tensor], object]] = {
    "masks": lambda s, t, y: masks(y),
    "masks, transparent": lambda s, t, y: masks(y.to(torch.uint8), ignore_mode="transparent"),
    "masks, odd size": lambda s, t, y: class_edge_mask(y, 40, 7, [(5, 7)]),
    "BPKD": lambda s, t, y: boundary_kd(s, t, masks(y)),
    "BPKD, hard": lambda s, t, y: boundary_kd(s, t, masks(y), pre_mask="hard", normalizer="average"),
    "BPKD, as configs say it": lambda s, t, y: boundary_kd(s, t, masks(y), class_weight=[2.0], normalizer="classes"),
    "CWD": lambda s, t, y: channel_kd(s, t, 4.0),
    "KD": lambda s, t, y: pixel_kd(s, t, valid=y[:, ::8, ::8] != 255),
    "cross entropy": lambda s, t, y: upsampled_cross_entropy(s, y),
    "cross entropy over valid pixels": lambda s, t, y: upsampled_cross_entropy(
        s, y, denominator="valid", class_weight=torch.ones(40, device=s.device)
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_loss_waits_for_the_gpu_or_is_rounded_to_tf32(name: str, maps: tuple[Tensor, Tensor, Tensor]) -> None:
    with use_backend("eager"), Spy() as spy:
        CALLS[name](*maps)
    assert not spy.found


def test_weights_per_class_are_copied_without_waiting(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = maps
    mask, weights = masks(labels), [float(i) for i in range(40)]
    with use_backend("eager"), Spy() as spy:
        boundary_kd(student, teacher, mask, class_weight=weights)
    assert set(spy.found) <= {"lift_fresh", "detach"}  # the list's own tensor, on the CPU


HOST = {"randperm", "stack", "slice"}  # draws, which are alike on every device, on their way to the GPU


def test_cirkd_never_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: x)  # fake tensors have none
    channels = {"student_channels": {"decode": 6}, "teacher_channels": {"decode": 10}}
    with FakeTensorMode():
        with torch.device("cuda"):
            distiller = CIRKD(pixel_queue=30, region_queue=10, num_classes=40, **channels)
            maps = [torch.empty(2, c, 8, 9) for c in (40, 6, 40, 10)]
            labels = torch.zeros(2, 64, 72, dtype=torch.long)
        maps[1].requires_grad_()
        student, teacher = (SegOutput(maps[i], None, {"decode": maps[i + 1]}) for i in (0, 2))
        with use_backend("eager"), Spy() as spy:
            terms = distiller(student, teacher, labels, 3)
    assert len(terms) == 4
    assert set(spy.found) - set(PRODUCTS) == HOST


def test_a_batch_reaches_the_gpu_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: pinned.append(x.shape) or x)
    device = torch.device("cuda")
    with FakeTensorMode():
        network = SimpleNamespace(
            pixel_mean=torch.zeros(3, 1, 1, device=device), pixel_std=torch.ones(3, 1, 1, device=device),
            input_format="RGB", source_format="RGB",
        )  # fmt: skip
        labelled = Instances((8, 9), gt_masks=BitMasks(torch.ones(2, 8, 9)), gt_boxes=Boxes(torch.ones(2, 4)),
                             gt_classes=torch.zeros(2, dtype=torch.long))  # fmt: skip
        with Spy() as spy:
            (image,) = normalised([{"image": torch.empty(3, 8, 9, dtype=torch.uint8)}], network)
            found = image_instances(labelled, device)
        assert {x.device.type for x in (image, *vars(found).values())} == {"cuda"}
    assert pinned == [(3, 8, 9), (2, 8, 9), (2, 4), (2,)]
    assert "_to_copy" not in spy.found


def test_the_spy_sees_a_copy_and_a_product(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    with Spy() as spy:
        torch.tensor([1.0, 2.0], device="cuda")
        maps[0] @ maps[1].transpose(2, 3)
    assert {"_to_copy", "bmm"} <= set(spy.found)


@pytest.mark.parametrize("mode", ["opaque", "transparent"])
def test_the_table_that_a_gpu_fills_is_that_of_a_cpu(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    window, group = EdgeWindow(7, 255, mode == "transparent"), list(range(30, 40))
    want = _table(group, 45, window, torch.device("cpu"))
    for name in ("full", "ones", "arange"):
        call = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, call=call, device=None, **k: call(*a, **k))
    found = _table(group, 45, window, torch.device("cuda"))
    assert torch.equal(found, want)
    assert found[-1] == (0 if mode == "transparent" else 1 << 30)


def test_folding_is_judged_in_full_float32() -> None:
    """TF32, PyTorch's default for convolutions, takes the scores further apart than folding is allowed to."""
    model = network("pspnet_r18", "MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 0.0625, "MODEL.SEM_SEG_HEAD.CHANNELS", 8)
    switches, seen = (torch.backends.cuda.matmul, torch.backends.cudnn), []
    before, predict = [switch.allow_tf32 for switch in switches], model.predict

    def watched(images: Tensor) -> Any:
        seen.append([switch.allow_tf32 for switch in switches])
        return predict(images)

    model.predict = watched  # type: ignore[method-assign]
    try:
        for switch in switches:
            switch.allow_tf32 = True
        assert acceleration.fold_batch_norm(model.eval(), torch.randn(1, 3, 64, 64)) > 0
        assert [switch.allow_tf32 for switch in switches] == [True, True]
    finally:
        for switch, was in zip(switches, before, strict=True):
            switch.allow_tf32 = was
    assert seen
    assert not any(any(flags) for flags in seen)
