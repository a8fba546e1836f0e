"""Distillers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, TypeVar

from bpkd.errors import did_you_mean

if TYPE_CHECKING:
    from .base import Distiller

Class = TypeVar("Class", bound="type[Distiller]")


class DistillerRegistry(MutableMapping[str, "type[Distiller]"]):
    """Maps names, as DISTILL.METHOD gives them, to distiller classes.

    A class is added with ``@DISTILLERS.register()``, as with Detectron2's registries, or with
    ``DISTILLERS["NAME"] = Class``.

    >>> registry = DistillerRegistry()
    >>> from bpkd.distillers import KD
    >>> registry.register(KD) is registry["KD"] is KD
    True
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._classes: dict[str, type[Distiller]] = {}

    def register(self, distiller: type[Distiller] | None = None) -> Callable[[Class], Class] | type[Distiller]:
        """Adds a class under its own name; without an argument returns a decorator that does.

        Args:
            distiller: subclass of `Distiller`.

        Raises:
            ValueError: another class has the name, or the name holds a character other than letters, digits and "_".
            TypeError: the object is no subclass of `Distiller`, or its arguments cannot be config keys.
        """
        if distiller is not None:
            self[distiller.__name__] = distiller
            return distiller

        def decorator(cls: Class) -> Class:
            self[cls.__name__] = cls
            return cls

        return decorator

    def __getitem__(self, name: str) -> type[Distiller]:
        """Returns the class; the KeyError of an unknown name lists similar names and explains registration."""
        if name in self._classes:
            return self._classes[name]
        raise KeyError(self.unknown(name))

    def __setitem__(self, name: str, distiller: type[Distiller]) -> None:
        """Adds a class under a name; the same class of a reloaded module replaces the old one."""
        from .arguments import arguments
        from .base import Distiller

        if not (isinstance(distiller, type) and issubclass(distiller, Distiller)):
            raise TypeError(
                f"DISTILLERS[{name!r}]: expected a subclass of bpkd.distillers.Distiller, got {distiller!r}."
            )
        if not name.isidentifier() or name == "none":
            raise ValueError(f"DISTILLERS: expected a name of letters, digits and _ (not none), got {name!r}.")
        known = self._classes.get(name)
        if known is not None and _place(known) != _place(distiller):
            raise ValueError(
                f"DISTILLERS: expected a new name, got {name!r} for {_place(distiller)}; {_place(known)} has it "
                "already. Rename one of the two classes."
            )
        arguments(distiller)
        self._classes[name] = distiller

    def __delitem__(self, name: str) -> None:
        """Removes a name."""
        del self._classes[name]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names."""
        return iter(self._classes)

    def __len__(self) -> int:
        """Returns the number of names."""
        return len(self._classes)

    def __contains__(self, name: object) -> bool:
        """Returns whether a name is registered."""
        return name in self._classes

    def unknown(self, name: str) -> str:
        """Returns the error message about an unknown name."""
        return (
            f"expected one of {', '.join(['none', *self._classes])}, or several joined by +, got {name!r}."
            f"{did_you_mean(name, self._classes)} "
            "A distiller outside of bpkd is registered by a module that the config names in IMPORTS."
        )


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


DISTILLERS = DistillerRegistry()
