"""Packaging of bpkd. Detectron2 is on no registry: see tools/install_detectron2.py."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent
INIT = (ROOT / "bpkd" / "__init__.py").read_text(encoding="utf-8")
README = ROOT / "README.md"

# The pure rooms need torch and numpy only; the rest is for data and for Detectron2, whose
# upstream bounds on iopath and omegaconf are repeated so that a later install changes nothing.
REQUIRES = [
    "torch>=2.1",
    "torchvision>=0.16",
    "numpy>=1.23,<2",
    "opencv-python-headless>=4.8,<4.12",
    "Pillow>=9",
    "pyyaml",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.9,<0.1.10",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "pycocotools>=2.0.2",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "termcolor>=1.1",
    "tqdm>4.29",
    "packaging",
    "matplotlib",
    "tensorboard",
    "setuptools<81",
]
ONNX = ["onnx", "onnxscript", "onnxruntime", "ml_dtypes<0.6"]
DEV = ["pytest>=8", "pytest-cov", "ruff", "mypy", "cityscapesscripts"]

# The C++ functions of bpkd/functional/native: one library per instruction set, the best one is chosen when it is
# loaded. They use neither Python's nor PyTorch's headers. Optional: without a compiler (or with one that does not know
# an instruction set) the install goes on, and the losses take their PyTorch path.
NATIVE = "bpkd/functional/native"
LEVELS = {"base": []}
if platform.machine().lower() in ("x86_64", "amd64") and sys.platform != "win32":
    LEVELS["avx2"] = ["-march=x86-64-v3"]
    LEVELS["avx512"] = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
# Clang as Apple ships it has no OpenMP runtime: one thread there. No -ffast-math: NaN must stay NaN.
OPENMP = ["-fopenmp-simd"] if sys.platform == "darwin" else ["-fopenmp"]
FLAGS = ["-std=c++17", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
FLAGS += ["-Wno-psabi", "-Wno-maybe-uninitialized"]  # vectors as arguments of inline functions; GCC's own headers
EXTENSIONS = [
    Extension(
        f"bpkd.functional.native._{level}",
        [f"{NATIVE}/{name}.cpp" for name in ("edges", "divergence", "segmentation")],
        depends=[f"{NATIVE}/{name}.h" for name in ("numbers", "label_sets", "divergence")],
        extra_compile_args=[*FLAGS, *OPENMP, *flags],
        extra_link_args=OPENMP,
        language="c++",
        optional=True,
    )
    for level, flags in LEVELS.items()
    if sys.platform != "win32"
]

setup(
    name="bpkd",
    version=re.search(r'__version__ = "([^"]+)"', INIT).group(1),
    description="Boundary privileged knowledge distillation for segmentation, on Detectron2",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["bpkd", "bpkd.*"]),
    package_data={
        "bpkd.analysis": ["page.html", "page.css", "page.js"],
        "bpkd.functional.native": ["*.cpp", "*.h"],
    },
    ext_modules=EXTENSIONS,
    install_requires=REQUIRES,
    extras_require={"dev": [*DEV, *ONNX], "onnx": ONNX},
)
