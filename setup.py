"""Packaging of bpkd: metadata, the C++ libraries and the wheel's tag. Detectron2: see bpkd/install_detectron2.py."""

from __future__ import annotations

import copy
import os
import platform
import re
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
INIT = (ROOT / "bpkd" / "__init__.py").read_text(encoding="utf-8")
# Links of the front page lead into the repository's folder: on a package index they would lead nowhere.
README = re.sub(r"!?\[([^]]*)\]\((?!http)[^)]*\)", r"\1", (ROOT / "README.md").read_text(encoding="utf-8"))

# Floors are the oldest versions that are meant to work; there are no upper bounds, so that nothing is downgraded.
REQUIRES = ["torch>=2.5", "numpy>=1.26", "safetensors>=0.4"]  # losses, edge maps, metrics, distillers, checkpoints
TRAIN = [  # data, networks, training, evaluation; the second block is what Detectron2 imports
    "torchvision>=0.20",
    "opencv-python-headless>=4.8",
    "Pillow>=9.5",
    "pyyaml>=6",
    "tqdm>=4.60",
    "matplotlib>=3.7",
    "tensorboard>=2.12",
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    "pycocotools>=2.0.8",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "termcolor>=1.1",
    "packaging",
]
ONNX = ["onnx>=1.16", "onnxscript>=0.1", "onnxruntime>=1.17"]
TESTS = ["pytest>=8", "pytest-cov", "pytest-xdist", "ruff", "mypy", "cityscapesscripts"]

# The C++ functions of bpkd/functional/backends/native: one library per instruction set, the best one is chosen when it
# is loaded. They use neither Python's nor PyTorch's headers, so one file serves every Python. Optional: without a
# compiler (or with one that does not know an instruction set) the install goes on, and the losses run in PyTorch.
NATIVE = "bpkd/functional/backends/native"
LEVELS = {"base": []}
if platform.machine().lower() in ("x86_64", "amd64") and sys.platform != "win32":
    LEVELS["avx2"] = ["-march=x86-64-v3"]
    LEVELS["avx512"] = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
# Clang as Apple ships it has no OpenMP runtime: one thread there. No -ffast-math: NaN must stay NaN.
OPENMP = ["-fopenmp-simd"] if sys.platform == "darwin" else ["-fopenmp"]
FLAGS = ["-std=c++17", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
FLAGS += ["-Wno-psabi", "-Wno-maybe-uninitialized"]  # vectors as arguments of inline functions; GCC's own headers
# Compiled with OpenMP, linked without: its functions are found in the runtime that PyTorch has loaded, whatever that
# file is called (libgomp.so.1, libgomp-a34b3233.so.1, libiomp5.so; see native/openmp.py). A runtime of our own, bundled
# or the system's, would be a second pool of threads that spin beside PyTorch's, and many systems have none. Where none
# is found, the library does not load and says which function is missing. libstdc++ and libgcc_s are linked as usual:
# PyTorch needs them too, in newer versions.
EXTENSIONS = [
    Extension(
        f"bpkd.functional.backends.native._{level}",
        [f"{NATIVE}/{name}.cpp" for name in ("edges", "divergence", "segmentation")],
        depends=[f"{NATIVE}/{name}.h" for name in ("numbers", "label_sets", "divergence")],
        extra_compile_args=[*FLAGS, *OPENMP, *flags],
        language="c++",
        optional=True,
    )
    for level, flags in LEVELS.items()
    if sys.platform != "win32"
]
# The newest symbols that a manylinux_2_28 system has, by library (PEP 600's policy for it).
MANYLINUX = "manylinux_2_28"
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (8,)}


def libraries(folder: Path) -> list[Path]:
    """Returns the built libraries in a folder, those of another naming scheme included."""
    found = folder.glob("_*.*") if folder.is_dir() else ()
    return [p for p in found if p.suffix in (".so", ".dylib", ".pyd")]


def serves_manylinux(files: list[Path]) -> bool:
    """Returns whether the libraries need no symbol that MANYLINUX lacks; never on a C library other than glibc."""
    text = b"\0".join(p.read_bytes() for p in files)
    needs = re.findall(rb"\0(GLIBC|GLIBCXX|CXXABI|GCC)_(\d+(?:\.\d+)*)(?=\0)", text)
    versions = [(name.decode(), tuple(map(int, version.split(b".")))) for name, version in needs]
    return bool(versions) and all(version <= NEWEST[name] for name, version in versions)


class BuildLibraries(build_ext):
    """Plain shared libraries: `_avx2.so` instead of `_avx2.cpython-311-x86_64-linux-gnu.so`."""

    def finalize_options(self) -> None:
        """Compiles the libraries side by side."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def get_ext_filename(self, fullname: str) -> str:
        """Returns the file's path without a tag of the Python that builds it."""
        return os.path.join(*fullname.split(".")) + ".so"

    def run(self) -> None:
        """Builds; then removes what older builds left: `_avx2.so` must be the only library of its level."""
        super().run()
        files = [Path(self.build_lib, self.get_ext_filename(ext.name)) for ext in self.extensions]
        built = {p.name for p in files if p.is_file()}
        folders = [Path(self.build_lib, NATIVE)] + ([ROOT / NATIVE] if self.inplace else [])
        for path in (p for folder in folders for p in libraries(folder)):
            if path.name not in built:
                path.unlink()

    def build_extension(self, ext: Extension) -> None:
        """Builds one library; where that fails, no older one stays in its place.

        Its object files lie in a folder of their own: the libraries are built side by side from the same sources.
        """
        own = copy.copy(self)
        own.build_temp = os.path.join(self.build_temp, ext.name.rpartition(".")[2])
        try:
            super(BuildLibraries, own).build_extension(ext)
        except Exception:
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            raise


class Wheel(bdist_wheel):
    """One wheel for every Python 3; without libraries in it for every system too."""

    def run(self) -> None:
        """Builds first: only then is it known whether there are libraries."""
        if not self.skip_build:
            self.run_command("build")
        self.root_is_pure = not self._libraries()
        if self.root_is_pure:
            self.distribution.ext_modules = []
        super().run()

    def _libraries(self) -> list[Path]:
        return libraries(Path(self.get_finalized_command("build").build_lib, NATIVE))

    def get_tag(self) -> tuple[str, str, str]:
        """Returns Python, ABI and platform."""
        if self.root_is_pure:
            return "py3", "none", "any"
        system = super().get_tag()[2]
        if system.startswith("linux_") and serves_manylinux(self._libraries()):
            system = system.replace("linux", MANYLINUX, 1)
        return "py3", "none", system


# PEP 639's field is setuptools' own since 77; older ones know the other one.
NEW = int(setuptools.__version__.split(".")[0]) >= 77
LICENSE = {"license_expression": "Apache-2.0"} if NEW else {"license": "Apache-2.0"}

setup(
    name="bpkd",
    version=re.search(r'__version__ = "([^"]+)"', INIT).group(1),
    description="Boundary privileged knowledge distillation for segmentation, on Detectron2",
    long_description=README,
    long_description_content_type="text/markdown",
    **LICENSE,
    license_files=["LICENSE"],
    keywords=["knowledge distillation", "semantic segmentation", "instance segmentation", "boundary", "pytorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        *[f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)],
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10,<3.15",
    packages=find_packages(include=["bpkd", "bpkd.*"]),
    package_data={"bpkd": ["py.typed"], "bpkd.analysis": ["page.html", "page.css", "page.js"]},
    entry_points={"console_scripts": ["bpkd=bpkd.cli:main"]},
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": Wheel},
    install_requires=REQUIRES,
    extras_require={"train": TRAIN, "onnx": ONNX, "dev": [*TRAIN, *ONNX, *TESTS]},
    zip_safe=False,
)
