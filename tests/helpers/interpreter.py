"""Triton's interpreter, which runs the kernels on the CPU, for the tests and for `gpu-sheet --device cpu`.

``TRITON_INTERPRET=1`` must be set before Triton is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def patched_once(patch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Patches Triton's language once instead of at every call, which takes a third of the tests' time."""
    done: set[tuple[bool, ...]] = set()

    def call(function: Any) -> Any:
        modules = tuple(any(x is module for x in function.__globals__.values()) for module in (tl, tl.core))
        if modules not in done:
            done.add(modules)
            patch(function)
        return SimpleNamespace(restore=lambda: None)

    return call


def index_of_one(patch: Callable[..., None]) -> Callable[..., None]:
    """Triton 3.6 converts arrays of one number with int(), which numpy 2.5 refuses; later versions do not."""

    def call(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    return call


def prepare() -> None:
    """Makes the interpreter faster and compatible with numpy 2.5; a second call changes nothing."""
    if getattr(interpreter, "bpkd_prepared", False):
        return
    interpreter.bpkd_prepared = True
    if hasattr(interpreter, "_patch_lang_tensor"):
        interpreter._patch_lang_tensor = index_of_one(interpreter._patch_lang_tensor)
    if hasattr(interpreter, "_patch_lang"):
        interpreter._patch_lang = patched_once(interpreter._patch_lang)
