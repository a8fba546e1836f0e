"""Training steps of the same pair in mmrazor's form, with our networks and with mmsegmentation's."""

from __future__ import annotations

import copy
import time

import torch

from benchmarks.parts import plain_loop
from benchmarks.peers.mmseg_networks import build_mmseg, import_mmseg, mmseg_logits, our_logits

from .device import Call
from .items import Row, Settings
from .machine import installed
from .pairs import Pair, set_tf32, timed

RIVAL, RIVAL_NETWORKS = "mmrazor's form", "mmrazor's form, mmsegmentation's networks"


def rival(settings: Settings, seconds: float, *, amp: str) -> Row:
    """Times BPKD's step beside the same pair's step in mmrazor's form, in the same precision.

    mmrazor's form: the teacher without gradient in the student's autocast, cross entropy of both heads at label size,
    channel-wise distillation, all in plain PyTorch; also with mmsegmentation's networks where they were given.
    """
    begin = time.monotonic()
    set_tf32(True)
    pair = Pair(settings, "cityscapes", (512, 512), 8)
    device = torch.device(settings.device)
    teacher = pair.teacher("fold+channels_last", amp)  # "auto" would take bf16 for a teacher in float32
    calls = {
        "BPKD": pair.step("BPKD", teacher, amp),
        "CWD": pair.step("CWD", teacher, amp),
        RIVAL: plain_loop(*copy.deepcopy((pair.student, pair.network)), our_logits, pair.batch, device, amp),
    }
    peers: Row = {}
    if settings.peers is not None:
        try:
            calls[RIVAL_NETWORKS] = mmseg_loop(settings, pair, amp)
            peers = {name: installed(name) for name in ("mmsegmentation", "mmengine", "mmcv-lite")}
        except ImportError as error:  # our step is still measured
            peers = {"error": str(error)}
    left = seconds - (time.monotonic() - begin)
    row = timed(settings, left, calls, len(pair.batch), RIVAL)
    return row | {"amp": amp, "tf32": True, "size": list(pair.size), "peers": peers}


def mmseg_loop(settings: Settings, pair: Pair, amp: str) -> Call:
    """The plain loop over mmsegmentation's own networks."""
    import_mmseg(settings.peers)
    networks = [build_mmseg(name, pair.student.num_classes) for name in ("pspnet_r18", "pspnet_r101")]
    return plain_loop(*networks, mmseg_logits, pair.batch, torch.device(settings.device), amp)
