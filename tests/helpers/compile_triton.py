"""Compiles every Triton kernel of bpkd for an NVIDIA architecture, without a GPU: ``compile_triton.py 90``."""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bpkd.functional.backends.triton import (
    divergence_kernels,
    entropy_kernels,
    mask_kernels,
    pixel_kernels,
    row_kernels,
)
from bpkd.functional.backends.triton.losses import warps

MAPS = ["student", "teacher", "gradient", "logits"]
FLOATS = ["mask", "alpha", "found", "values", "edge_upstream", "body_upstream", "upstream", "valid", "count"]
TYPES = (
    dict.fromkeys([*FLOATS, "first", "second", "out"], "*fp32")
    | dict.fromkeys(["cells", "words", "numbers"], "*i32")
    | dict.fromkeys(["P", "C", "N", "H", "W", "h", "w", "classes", "ignored", "split", "total"], "i32")
    | dict.fromkeys(["scale", "edge_factor", "body_factor", "factor", "first_factor", "second_factor"], "fp32")
    | dict.fromkeys(["weight", "log_sums"], "*fp32")
    | dict.fromkeys(["row_scale", "column_scale"], "fp32")
)
NO_EDGES = {"mask": None, "cells": None, "found": None, "PRE": 3}
FORWARD = {"edge_upstream": None, "body_upstream": None, "upstream": None, "PURPOSE": 0}


def variants() -> list[tuple[Any, str, dict[str, Any]]]:
    """(kernel, element type, constants); None is an argument that is left out, an integer 1 becomes a constant."""
    rows, pixels = row_kernels.rows_kernel, pixel_kernels.pixels_kernel
    found: list[tuple[Any, str, dict[str, Any]]] = [(row_kernels.count_kernel, "fp32", {"BLOCK": 4096})]
    for pre in range(3):
        found.append(
            (
                row_kernels.edge_kernel,
                "fp32",
                {"PRE": pre, "PER_CLASS": pre == 1, "CLASSES": 16 if pre == 2 else 1, "BLOCK": 64},
            )
        )
        found.append((rows, "fp32", FORWARD | {"PRE": pre, "BLOCK": 4096}))
    for kind in ("fp16", "bf16"):
        found.append((row_kernels.edge_kernel, kind, {"PRE": 0, "PER_CLASS": False, "CLASSES": 1, "BLOCK": 64}))
        found.append((rows, kind, {"PRE": 0, "PURPOSE": 1, "values": None, "BLOCK": 4096}))
        found.append((pixels, kind, FORWARD | {"CLASSES": 32, "BLOCK": 128}))
    found += [
        (row_kernels.edge_kernel, "bf16", {"PRE": 2, "PER_CLASS": True, "CLASSES": 1, "BLOCK": 64, "P": 1, "C": 1}),
        (row_kernels.edge_kernel, "fp32", {"PRE": 0, "PER_CLASS": True, "CLASSES": 1, "BLOCK": 64, "P": 1, "C": 1}),
        (rows, "fp32", FORWARD | {"PRE": 0, "BLOCK": 1, "P": 1, "C": 1}),
        (rows, "fp32", FORWARD | NO_EDGES | {"BLOCK": 8192}),
        (rows, "fp32", FORWARD | NO_EDGES | {"BLOCK": 8192, "gradient": None}),
        (rows, "fp32", NO_EDGES | {"PURPOSE": 2, "values": None, "BLOCK": 8192}),
        (pixels, "fp32", FORWARD | {"CLASSES": 256, "BLOCK": 16, "valid": None, "count": None}),
        (pixels, "fp32", {"PURPOSE": 1, "values": None, "CLASSES": 1, "BLOCK": 128, "C": 1, "P": 1}),
        (divergence_kernels.total_kernel, "fp32", {"BLOCK": 1024}),
        (divergence_kernels.total_kernel, "fp32", {"BLOCK": 1024, "total": 1, "split": 1}),
    ]
    found += entropy_variants()
    cell = {"SIDE": 7, "PIXELS": 8, "ROWS": 31, "BLOCK": 32}
    for kind, transparent in (("u8", False), ("i64", True)):
        found.append((mask_kernels.columns_kernel, kind, {"SIDE": 7, "TRANSPARENT": transparent, "BLOCK": 512}))
        found.append((mask_kernels.cells_kernel, kind, cell | {"TRANSPARENT": transparent}))
    found.append((mask_kernels.cells_kernel, "u8", cell | {"TRANSPARENT": False, "numbers": None}))
    wide = cell | {"TRANSPARENT": False, "PIXELS": 512, "ROWS": 255, "BLOCK": 1}
    found.append((mask_kernels.cells_kernel, "u8", wide))
    ones = dict.fromkeys(["N", "H", "W", "h", "w", "classes", "ignored"], 1)
    found.append(
        (
            mask_kernels.cells_kernel,
            "i32",
            ones | {"SIDE": 1, "TRANSPARENT": True, "PIXELS": 1, "ROWS": 255, "BLOCK": 1},
        )
    )
    return found


def entropy_variants() -> list[tuple[Any, str, dict[str, Any]]]:
    """Of the cross entropy: eight times larger and of many classes, weighted, of one cell, without a gradient."""
    forward, gradient = entropy_kernels.entropy_kernel, entropy_kernels.entropy_gradient_kernel
    plain, ones = {"weight": None, "count": None}, dict.fromkeys(["C", "h", "w", "H", "W", "ignored"], 1)
    large = {"ALIGNED": False, "ROWS": 4, "COLUMNS": 7, "PADDED": 16, "CLASSES": 16, "BLOCK": 64}
    small = {"ALIGNED": True, "ROWS": 4, "COLUMNS": 15, "PADDED": 16, "CLASSES": 8, "BLOCK": 16}
    wide = {"ALIGNED": False, "ROWS": 4, "COLUMNS": 1, "PADDED": 16, "CLASSES": 8, "BLOCK": 128}
    return [
        (forward, "fp32", plain | {"ALIGNED": False, "ROWS": 8, "BLOCK": 32}),
        (forward, "bf16", plain | {"ALIGNED": True, "ROWS": 4, "BLOCK": 64, "log_sums": None}),
        (forward, "fp16", ones | {"ALIGNED": True, "ROWS": 1, "BLOCK": 1}),
        (gradient, "fp32", plain | large),
        (gradient, "bf16", plain | small),
        (gradient, "fp16", ones | wide),
    ]


def carried(code: str) -> list[int]:
    """Returns how many integers each loop carries from round to round."""
    loops = [line.rsplit(" -> (", 1)[1] for line in code.splitlines() if "iter_args(" in line]
    return sorted(types.split(")")[0].split(", ").count("i32") for types in loops)


def compiled(kernel: Any, kind: str, constants: dict[str, Any], architecture: int) -> int:
    """Returns the size of the kernel's cubin."""
    types = TYPES | dict.fromkeys([*MAPS, "labels"], f"*{kind}") | {"target": "*i64"}
    constants = {k: v for k, v in constants.items() if k in kernel.arg_names}
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    options = {"num_warps": warps(constants["BLOCK"] * constants.get("CLASSES", 1))}
    done = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    # Triton 3.6 dropped an integer that a loop of the cross entropy carried: the gradient was wrong.
    assert carried(done.asm["ttgir"]) == carried(done.asm["ttir"]), f"{kernel.__name__}: a loop lost an integer"
    assert done.asm["ptx"]
    return len(done.asm["cubin"])


def main(architecture: int) -> None:
    """Compiles all variants and looks that no kernel was forgotten."""
    modules = (divergence_kernels, entropy_kernels, mask_kernels, pixel_kernels, row_kernels)
    missing = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    for kernel, kind, constants in variants():
        size = compiled(kernel, kind, constants, architecture)
        assert size > 0
        sys.stdout.write(f"{kernel.fn.__name__} {kind} {constants}: {size} bytes\n")
        missing.discard(kernel.fn.__name__)
    assert not missing, missing
    sys.stdout.write("every kernel compiled\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
