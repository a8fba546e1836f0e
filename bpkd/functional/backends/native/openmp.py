"""Makes the OpenMP runtime that PyTorch has loaded the C++ libraries' own: one pool of threads in the process."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import torch

# GCC's, LLVM's and Intel's runtime, under the names that wheels give them: libgomp-a34b3233.so.1
_RUNTIME = re.compile(r"\s(/\S.*/lib(?:g|i)?omp5?(?:-[^/]*)?\.so[^/\s]*)$", re.MULTILINE)


def loaded_runtimes() -> list[str]:
    """Returns the OpenMP runtimes of this process, PyTorch's own first; empty where the system does not tell."""
    try:
        found = sorted(set(_RUNTIME.findall(Path("/proc/self/maps").read_text(errors="surrogateescape"))))
    except OSError:
        return []
    return sorted(found, key=lambda path: not path.startswith(str(Path(torch.__file__).parent)))


def share_runtime() -> None:
    """Lets libraries that are loaded from now on find the runtime's functions, which they name without a file.

    Most builds of PyTorch have made them known already. Where nothing brings a runtime, the system's is taken; where
    there is none either, the libraries say which function is missing.
    """
    if not sys.platform.startswith("linux"):
        return
    for path in [*loaded_runtimes(), "libgomp.so.1"]:
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return
