"""Functions that run an item in a process and end that process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from bpkd.analysis.records import environment

from .items import Row, Settings
from .machine import installed, nvidia_smi

ROOT = Path(__file__).resolve().parents[2]


def probe_device(settings: Settings, seconds: float) -> Row:
    """Computes a sum on the device and returns the environment."""
    import torch

    del seconds
    assert float((torch.ones(8, device=settings.device) * 2).sum()) == 16
    found: Row = {**environment(), "triton": installed("triton")}
    if settings.device == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "nvidia_smi": nvidia_smi()}
    return found


def end_with_parent() -> None:
    """Makes the kernel kill this process when its parent ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def work(call: Callable[[Settings, float], Row], settings: Settings, seconds: float, answer: Path, title: str) -> None:
    """Body of an item's process: runs it with its output in sheet.log and writes its state."""
    gc.freeze()  # what was imported stays: collections look at the item's own objects alone
    os.setsid()  # so that its own child processes can be stopped with it
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(ROOT)  # configs name each other from there
    log = os.open(settings.out / "sheet.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout = sys.stderr = os.fdopen(os.dup(log), "w", buffering=1)
    print(f"=== {title}", flush=True)
    try:
        result = call(settings, seconds)
        failed = result.pop("failed", None)
        state: Row = {"status": "failed", "error": failed} if failed else {"status": "passed"}
        state["result"] = result
        if settings.device == "cuda":
            state["gpu_after"] = nvidia_smi()  # clocks and temperature while it was measured
    except BaseException as error:
        said = traceback.format_exception_only(error)[-1].strip().splitlines()[0][:500]
        state = {"status": "failed", "error": said, "traceback": traceback.format_exc()[-8000:]}
        print(state["traceback"], flush=True)
    temporary = answer.with_suffix(".tmp")
    temporary.write_text(json.dumps(state))
    temporary.replace(answer)
    sys.stdout.flush()
    os._exit(0)  # skips exit handlers, which may hang on a broken device


def stop(process: BaseProcess) -> None:
    """Ends an item's process and those that it has started."""
    pid = process.pid
    assert pid
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
        process.join(2)
        if not process.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # its child processes that still run
            return
