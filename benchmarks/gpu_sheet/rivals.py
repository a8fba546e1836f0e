"""The same pair in mmrazor's form: of our networks, and of mmsegmentation's."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmark_parts import channel_wise
from fast_targets import literal_cross_entropy
from torch import Tensor, nn

from bpkd.modeling.precision import AMP_DTYPES

from .device import Call
from .items import Row, Settings
from .machine import installed
from .pairs import Pair, set_tf32, timed

RIVAL, RIVAL_NETWORKS = "mmrazor's form", "mmrazor's form, mmsegmentation's networks"


def rival(settings: Settings, seconds: float, *, amp: str) -> Row:
    """BPKD's step as this project runs it, beside the same pair's in mmrazor's form, in the same precision.

    mmrazor's form: the teacher without gradient in the student's autocast, cross entropy of both heads at label size,
    channel-wise distillation, all in plain PyTorch; also with mmsegmentation's networks where they were given.
    """
    begin = time.monotonic()
    set_tf32(True)
    pair = Pair(settings, "cityscapes", (512, 512), 8)
    teacher = pair.teacher("fold+channels_last", amp)  # "auto" would take bf16 for a teacher in float32
    calls = {
        "BPKD": pair.step("BPKD", teacher, amp),
        "CWD": pair.step("CWD", teacher, amp),
        RIVAL: plain_loop(pair, pair.student, pair.network, our_logits, amp),
    }
    peers: Row = {}
    if settings.peers is not None:
        try:
            calls[RIVAL_NETWORKS] = mmseg_loop(settings, pair, amp)
            peers = {name: installed(name) for name in ("mmsegmentation", "mmengine", "mmcv-lite")}
        except ImportError as error:  # ours is measured without it
            peers = {"error": str(error)}
    left = seconds - (time.monotonic() - begin)
    row = timed(settings, left, calls, len(pair.batch), RIVAL)
    return row | {"amp": amp, "tf32": True, "size": list(pair.size), "peers": peers}


def our_logits(model: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits of the decode and of the auxiliary head."""
    output = model.predict(images)
    return output.logits, output.aux


def mmseg_loop(settings: Settings, pair: Pair, amp: str) -> Call:
    """The plain loop over mmsegmentation's own networks."""
    from mmseg_networks import build_mmseg, import_mmseg, mmseg_logits

    sys.path.append(str(settings.peers))
    import_mmseg()
    classes = pair.student.num_classes
    networks = [build_mmseg(name, classes).to(settings.device) for name in ("pspnet_r18", "pspnet_r101")]
    return plain_loop(pair, *networks, mmseg_logits, amp)


def plain_loop(pair: Pair, student: nn.Module, teacher: nn.Module, logits: Callable[..., Any], amp: str) -> Call:
    """One step in mmrazor's form, of copies of the networks."""
    student, teacher = copy.deepcopy(student).train(), copy.deepcopy(teacher).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4)
    device = torch.device(pair.device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        images = torch.stack([item["image"] for item in pair.batch]).to(device).sub(120.0).div(57.0)
        labels = torch.stack([item["sem_seg"] for item in pair.batch]).to(device).long()
        with torch.autocast(device.type, AMP_DTYPES[amp], enabled=amp != "off"):
            decode, aux = logits(student, images)
            with torch.no_grad():
                target, _ = logits(teacher, images)
        loss = literal_cross_entropy(decode.float(), labels) + 3.0 * channel_wise(decode.float(), target.float())
        if aux is not None:
            loss = loss + 0.4 * literal_cross_entropy(aux.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run
