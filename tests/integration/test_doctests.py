"""The examples in the docstrings of the pure packages."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest
import torch

PACKAGES = ("bpkd.functional", "bpkd.metrics", "bpkd.distillers")
# What imports Triton, which is not everywhere, and the C++ libraries, which are no Python modules.
NOT_IMPORTED = ("bpkd.functional.backends.triton.", "bpkd.functional.backends.native._")


def modules() -> list[str]:
    found = []
    for name in PACKAGES:
        package = importlib.import_module(name)
        inside = (info.name for info in pkgutil.walk_packages(package.__path__, f"{name}."))
        found += [name, *(n for n in inside if not n.startswith(NOT_IMPORTED))]
    return found


def examples(module: ModuleType) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs={"torch": torch})
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", modules())
def test_examples_give_what_they_show(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in examples(importlib.import_module(name)):
        torch.manual_seed(0)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", ["bpkd.functional", "bpkd.metrics"])
def test_every_public_function_and_class_has_an_example(name: str) -> None:
    package = importlib.import_module(name)
    public = {n: getattr(package, n) for n in package.__all__}
    missing = {n for n, x in public.items() if callable(x) and ">>>" not in (x.__doc__ or "")}
    assert not missing
