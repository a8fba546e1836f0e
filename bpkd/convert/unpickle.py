"""A pickle interpreter that never calls functions or classes that a file names.

A pickle is a program for a stack machine whose dangerous instructions look up any importable object and call it. Here
a looked-up name stays a name. The names of which state dicts are made, torch's here and numpy's in `arrays`, have an
own function in `REBUILD`; every other object becomes a `Placeholder` that takes and forgets what the file does to it.

`torch.load(pickle_module=...)` with inert classes is shorter and was tried: it runs the code of TorchScript archives,
allocates what a file of a few bytes claims (4 GB for an index of the memo) and crashes on deeply nested tuples as keys.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any, cast

import torch
from torch import Tensor

from . import arrays

PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
MAKERS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Placeholder("builtins.set"),
}
STORAGE = "torch.storage._load_from_bytes"
PLAIN_KEYS = (str, int, float, bytes, type(None))


class Placeholder:
    """Stands for an object that is not rebuilt. It knows the name of its class and nothing else."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"


class _Name(Placeholder):
    """A name that the file looked up; it is never resolved."""

    __slots__ = ()


class Machine:
    """Runs one pickle. ``load_storage`` receives the persistent ids, which torch uses for tensor data.

    ``load_bytes`` receives what a pickle of torch's tensors holds in place of them: a file of torch.save for each.
    ``limit``: bytes that arrays may take together; a pickle can state one block of data for many arrays.
    """

    def __init__(
        self,
        load_storage: Callable[[Any], Any],
        limit: int = 1 << 62,
        load_bytes: Callable[[bytes], Any] | None = None,
    ) -> None:
        self.load_storage, self.left, self.load_bytes = load_storage, limit, load_bytes
        self.replaced: dict[str, None] = {}

    def run(self, stream: IO[bytes]) -> Any:
        """Runs to the instruction STOP and returns the value on top of the stack."""
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        for code, argument, _ in pickletools.genops(stream):
            name = code.name
            if name in PUSHED:
                self.stack.append(argument)
            elif name in MAKERS:
                self.stack.append(MAKERS[name]())
            elif name == "STOP":
                break
            elif name not in ("PROTO", "FRAME"):
                self._step(name, argument)
        return self.stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self.stack.append(_Name(argument.replace(" ", ".")))
        elif name == "INST":  # the class is the instruction's argument
            arguments = self._to_mark()
            self.stack.append(self._call(_Name(argument.replace(" ", ".")), arguments))
        elif name in STEPS:
            STEPS[name](self)
        else:
            raise ValueError(f"the pickle instruction {name} does not occur in checkpoints")

    def _to_mark(self) -> tuple[Any, ...]:
        items, self.stack = self.stack, self.marked.pop()
        return tuple(items)

    def _mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _pop_mark(self) -> None:
        self._to_mark()

    def _pop(self) -> None:
        self.stack.pop()

    def _again(self) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _tuple(self) -> None:
        items = self._to_mark()
        self.stack.append(items)

    def _tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise ValueError("the pickle's stack is too short")
        self.stack[-count:] = [items]

    def _list(self) -> None:
        items = self._to_mark()
        self.stack.append(list(items))

    def _dict(self) -> None:
        items = self._to_mark()
        self.stack.append(_fill({}, items))

    def _frozen(self) -> None:
        self._to_mark()
        self.stack.append(Placeholder("builtins.frozenset"))

    def _append(self) -> None:
        item = self.stack.pop()
        self._extend_top((item,))

    def _appends(self) -> None:
        items = self._to_mark()
        self._extend_top(items)

    def _extend_top(self, items: tuple[Any, ...]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _fill(self.stack[-1], (key, value))

    def _set_items(self) -> None:
        items = self._to_mark()
        _fill(self.stack[-1], items)

    def _look_up(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_Name(f"{module}.{name}"))

    def _reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(called, arguments))

    def _new(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(called, arguments))

    def _new_with_keywords(self) -> None:
        self.stack.pop()
        self._new()

    def _object(self) -> None:
        called, *arguments = self._to_mark()
        self.stack.append(self._call(called, tuple(arguments)))

    def _build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if type(built) in (arrays.Rebuilt, arrays.DType):  # nothing else that is rebuilt has a state
            self._spend(built.set_state(state))

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError("its arrays are larger than the file")

    def _persistent(self) -> None:
        self.stack.append(self.load_storage(self.stack.pop()))

    def _call(self, called: Any, arguments: Any) -> Any:
        if type(called) is _Name and called.name == STORAGE and self.load_bytes is not None:
            (data,) = arguments
            self._spend(len(data))
            return self.load_bytes(data)
        if type(called) is _Name and called.name in REBUILD:
            made = REBUILD[called.name](*arguments)
            if made is not NotImplemented:
                return made
        name = called.name if isinstance(called, Placeholder) else type(called).__name__
        self.replaced[name] = None
        return Placeholder(name)


STEPS: dict[str, Callable[[Machine], None]] = {
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": Machine._pop_mark,
    "DUP": Machine._again,
    "MEMOIZE": Machine._memoize,
    "TUPLE": Machine._tuple,
    "TUPLE1": lambda machine: machine._tuple_of(1),
    "TUPLE2": lambda machine: machine._tuple_of(2),
    "TUPLE3": lambda machine: machine._tuple_of(3),
    "LIST": Machine._list,
    "DICT": Machine._dict,
    "FROZENSET": Machine._frozen,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "ADDITEMS": Machine._appends,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "STACK_GLOBAL": Machine._look_up,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._new,
    "NEWOBJ_EX": Machine._new_with_keywords,
    "OBJ": Machine._object,
    "BUILD": Machine._build,
    "BINPERSID": Machine._persistent,
}


def _fill(target: Any, items: tuple[Any, ...]) -> Any:
    if type(target) is dict:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys would be hashed by code of theirs, or by deep recursion.
            target[key if isinstance(key, PLAIN_KEYS) else Placeholder("key")] = value
    return target


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return cast("dict[Any, Any]", _fill({}, tuple(item for pair in pairs for item in pair)))


def _tensor(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if not isinstance(flat, Tensor):
        raise ValueError("a tensor has no data")
    return torch.as_strided(flat, size, stride, offset)  # refuses what lies outside of the data


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding!r} do not occur in checkpoints")
    return text.encode("latin1")


REBUILD: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": tuple,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": lambda *given: NotImplemented if given else b"",
    **arrays.REBUILD,
}
