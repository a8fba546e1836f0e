#!/usr/bin/env python
"""Run the tests of losses, masks, distillers and metrics once per instruction set, and once without the C++ functions.

    dev/test_levels.py [options of pytest]

The instruction set that this processor takes by default is left out: the other tests run on it. PyTorch's own functions
are held to the same instruction set.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from bpkd.functional.backends import native

REPO = Path(__file__).parents[1]
NAMES = {
    "functional": "losses fast_losses edges",
    "distillers": "instance_edges memory_bank distillers suite cirkd ifvd skds",
    "modeling/solov2": "losses",
    "metrics": "metrics",
}
TESTS = [f"tests/{folder}/test_{name}.py" for folder, names in NAMES.items() for name in names.split()]
# The level -> what PyTorch's own kernels and oneDNN, which it calls, may use.
TORCH = {"base": ("default", "SSE41"), "avx2": ("avx2", "AVX2"), "avx512": ("avx512", "AVX512_CORE")}


def other_levels() -> list[str]:
    """Returns the levels that run here, without the one that runs by default."""
    built = [path.name.split(".")[0][1:] for path in native.candidates()]  # best first
    return [*built[1:], "none"] if built else []


def run(level: str, options: list[str]) -> tuple[int, str]:
    """Runs the tests on one level.

    Args:
        level: "base", "avx2", "avx512", or "none": without the C++ functions.
        options: of pytest.

    Returns:
        pytest's exit status and all it printed.
    """
    environment = {**os.environ, "BPKD_NATIVE_LEVEL": level}
    if level in TORCH:
        environment["ATEN_CPU_CAPABILITY"], environment["ONEDNN_MAX_CPU_ISA"] = TORCH[level]
    command = [sys.executable, "-m", "pytest", "-q", *options, *TESTS]
    done = subprocess.run(
        command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def main() -> int:
    """Runs every level; returns the first exit status that is not 0."""
    levels, failed = other_levels(), 0
    if not levels:
        print("no level is left: the C++ functions are not built, and the other tests run without them")
    for level in levels:
        start = time.monotonic()
        status, text = run(level, sys.argv[1:])
        if status:
            print(text)
        closing = text.strip().splitlines()[-1] if text.strip() else "pytest printed nothing"
        print(f"level {level}: {closing.strip('= ')} [{time.monotonic() - start:.0f} s]", flush=True)
        failed = failed or status
    return failed


if __name__ == "__main__":
    sys.exit(main())
