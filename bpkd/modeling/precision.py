"""Automatic mixed precision: the types that a device has instructions for, and the cost of emulated ones."""

from __future__ import annotations

import functools
import logging
import os
import platform
import time

import torch
from torch.nn import functional as F

from bpkd.config import AMP_CHOICES, AMP_NAMES

logger = logging.getLogger(__name__)

AMP_DTYPES = dict(zip(AMP_NAMES, (torch.float32, torch.bfloat16, torch.float16), strict=True))
ONEDNN_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
# A convolution that is slower than float32 by more than this factor gets a warning.
SLOW = 1.2


def check_amp(amp: str, *, key: str) -> str:
    """Checks the name of an autocast type and returns it.

    Args:
        amp: "off" (float32), "bf16" or "fp16".
        key: Config key of the value, for messages.

    Raises:
        ValueError: the name is unknown.
    """
    if amp not in AMP_DTYPES:
        raise ValueError(f"{key}: expected one of {', '.join(AMP_DTYPES)}, got {amp!r}.")
    return amp


def autocast(device: torch.device, amp: str, *, cache: bool = True) -> torch.autocast:
    """Returns a context in which a network computes in the autocast type "off" (float32), "bf16" or "fp16".

    Args:
        device: The network's device.
        amp: Name of the type, see `check_amp`.
        cache: Whether converted weights are kept within the context, as in training.
    """
    return torch.autocast(device.type, dtype=AMP_DTYPES[amp], enabled=amp != "off", cache_enabled=cache)


def choose_precision(precision: str, device: torch.device, *, key: str) -> str:
    """Returns the autocast type of a network on a device: "off" (float32), "bf16" or "fp16".

    Args:
        precision: "auto": bf16, else fp16, where the device has instructions for it, else float32; or "off", "bf16",
            "fp16", which are returned unchanged. A type without instructions is measured, with a warning.
        device: Device that the network runs on.
        key: Config key of the value, for messages.

    Raises:
        ValueError: ``precision`` is unknown.
    """
    if precision not in AMP_CHOICES:
        raise ValueError(f"{key}: expected one of {', '.join(AMP_CHOICES)}, got {precision!r}.")
    if precision == "auto":
        return next((name for name in _automatic(device) if has_instructions(name, device)), "off")
    if not has_instructions(precision, device):
        factor = slowdown(precision, device, gradient=not key.startswith("TEACHER"))
        if factor > SLOW:
            logger.warning(
                "%s: %s, in which %s is slower than in float32: a convolution takes %.1f times as long. "
                "off runs in float32.", key, precision, device_name(device), factor,
            )  # fmt: skip
    return precision


def describe(dtype: str, device: torch.device, *, key: str) -> str:
    """Returns a log entry of a precision with its reason, "bf16 (this CPU (AVX512) has instructions for it)".

    Args:
        dtype: "off", "bf16" or "fp16".
        device: Device that the network runs on.
        key: Config key that sets it.
    """
    where = device_name(device)
    if dtype != "off":
        return f"{dtype} ({where} has {'' if has_instructions(dtype, device) else 'no '}instructions for it)"
    fast = any(has_instructions(name, device) for name in _automatic(device))
    return f"float32 ({f'{key} is off' if fast else f'{where} has no instructions for bf16'})"


def _automatic(device: torch.device) -> tuple[str, ...]:
    """Returns the types that "auto" considers, best first. fp16 needs a loss scaler, and few CPUs support it."""
    return ("bf16", "fp16") if device.type == "cuda" else ("bf16",)


def has_instructions(dtype: str, device: torch.device) -> bool:
    """Returns whether a device has instructions for a type ("off", "bf16" or "fp16").

    Without them bf16 and fp16 are emulated and slower than float32.
    """
    if dtype == "off":
        return True
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return False
        if dtype == "bf16":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_capability(device) >= (7, 0)  # tensor cores
    if device.type != "cpu" or dtype == "fp16":
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # Environment variables may restrict PyTorch's and oneDNN's kernels to older instruction sets.
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ONEDNN_WITHOUT_BF16:
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()


def device_name(device: torch.device) -> str:
    """Returns a device's name for messages: "this CPU (AVX2)", "NVIDIA H100 80GB HBM3"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"this CPU ({torch.backends.cpu.get_cpu_capability()})" if device.type == "cpu" else device.type


@functools.cache
def slowdown(dtype: str, device: torch.device, *, gradient: bool = True) -> float:
    """Returns the time of a 3 x 3 convolution in ``dtype`` over that in float32, with or without its gradient.

    The state of the global random generator is not changed.

    Args:
        dtype: "bf16" or "fp16".
        device: Device to measure.
        gradient: Whether to measure forward and backward pass; False: the forward pass only.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):
        images = torch.randn(2, 64, 48, 48, generator=generator).to(device).requires_grad_()
        weight = torch.randn(64, 64, 3, 3, generator=generator).to(device).requires_grad_()

    # Gradients on and no autocast, whatever the caller's context.
    @torch.inference_mode(False)
    @torch.enable_grad()
    @torch.autocast(device.type, enabled=False)
    def seconds(kind: torch.dtype) -> float:
        start = time.perf_counter()
        output = F.conv2d(images.to(kind), weight.to(kind), padding=1).sum().float()
        if gradient:
            output.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    kinds = (AMP_DTYPES[dtype], torch.float32)
    for kind in kinds:  # the first call prepares the kernel and is not measured
        seconds(kind)
    low, full = (min(times) for times in zip(*((seconds(kinds[0]), seconds(kinds[1])) for _ in range(3)), strict=True))
    return low / full
