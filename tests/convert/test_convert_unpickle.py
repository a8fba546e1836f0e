"""Hostile and foreign files: nothing in them runs, and what they look up is never looked up."""

from __future__ import annotations

import builtins
import importlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bpkd.convert import read_checkpoint
from bpkd.convert.torchfile import is_tar, read_restricted
from bpkd.convert.unpickle import Machine, Placeholder
from tests.helpers.checkpoints import Buffer

STATE = OrderedDict(weight=torch.arange(6.0).view(2, 3).t(), bias=torch.ones(2).half(), count=torch.tensor(3))


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Touches:
    """A class that leaves a mark when its state is set."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["path"]).write_text("ran")

    def __call__(self, *_: Any) -> None:
        Path(self.path).write_text("ran")


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    """A file that must not appear."""
    return tmp_path / "sentinel"


def hostile(sentinel: Path) -> dict[str, Any]:
    write = f"open({str(sentinel)!r}, 'w').write('ran')"
    inner = sentinel.with_name("inner.pth")
    torch.save({"x": Call(os.system, f"touch {sentinel}")}, inner)
    return {
        "os.system": Call(os.system, f"touch {sentinel}"),
        "eval": Call(eval, write),
        "exec": Call(exec, write),
        "import": Call(__import__, "antigravity"),
        "import_module": Call(importlib.import_module, "this"),
        "popen": Call(subprocess.Popen, ["touch", str(sentinel)]),
        "nested torch.load": Call(torch.load, str(inner), None, None),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {sentinel}"))),
        "setstate": Touches(str(sentinel)),
        "getattr chain": Call(getattr, Call(__import__, "os"), "system"),
        "open": Call(open, str(sentinel), "w"),
        "numpy": np.float64(3.0),
        "numpy array": np.arange(3),
        "buffer": Buffer(),
        "set of tuples": {(1, 2)},
    }


PLAIN = ("numpy", "numpy array")  # rebuilt without calling anything of numpy's that the file names
NAMES = (
    "os.system", "eval", "exec", "import", "import_module", "popen", "nested torch.load", "pickle.loads", "setstate",
    "getattr chain", "open", "numpy", "numpy array", "buffer", "set of tuples",
)  # fmt: skip


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_file_is_executed(
    name: str, new_format: bool, sentinel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    thing = hostile(sentinel)[name]
    content = {"state_dict": STATE, "meta": {"CLASSES": ("a", "b"), "thing": thing}, "message_hub": [thing]}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    loaded = set(sys.modules)
    calls: list[str] = []
    for module, attribute in ((os, "system"), (builtins, "eval"), (builtins, "exec"), (subprocess, "Popen")):
        monkeypatch.setattr(module, attribute, lambda *a, _n=attribute, **k: calls.append(_n))
    checkpoint = read_checkpoint(str(path))
    monkeypatch.undo()
    assert not sentinel.exists()
    assert calls == []
    assert not {"antigravity", "this"} & (set(sys.modules) - loaded)
    assert checkpoint.classes == ("a", "b")
    assert list(checkpoint.state) == list(STATE)
    for key, value in STATE.items():
        assert torch.equal(checkpoint.state[key], value), key
        assert checkpoint.state[key].dtype == value.dtype, key
    restricted, replaced = read_restricted(str(path))
    if name in PLAIN:
        assert np.array_equal(restricted["meta"]["thing"], thing)
        return
    assert isinstance(restricted["meta"]["thing"], Placeholder)
    assert replaced or name == "set of tuples"


def test_the_hostile_files_are_hostile(sentinel: Path, tmp_path: Path) -> None:
    for name in ("os.system", "setstate", "eval", "pickle.loads", "open"):
        torch.save(hostile(sentinel)[name], tmp_path / "weights.pth")
        torch.load(tmp_path / "weights.pth", weights_only=False)
        assert sentinel.exists(), name
        sentinel.unlink()


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_an_object_in_place_of_the_weights_is_refused_by_name(key: str | None, sentinel: Path, tmp_path: Path) -> None:
    thing = Call(os.system, f"touch {sentinel}")
    for content in (thing, OrderedDict(weight=thing)):
        torch.save({key: content} if key else content, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"cannot be read .* Python object (posix|nt|os)\.system"):
            read_checkpoint(str(tmp_path / "w.pth"))
    assert not sentinel.exists()


def run(program: bytes) -> tuple[Any, list[str]]:
    machine = Machine(lambda persistent_id: persistent_id)
    return machine.run(io.BytesIO(program)), list(machine.replaced)


@pytest.mark.parametrize(
    ("program", "replaced"),
    [
        (b"cos\nsystem\n(S'x'\ntR.", "os.system"),
        (b"(S'x'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'x'\no.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.", "os.system"),
        (b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85\x81.", "os.system"),
        (b"\x80\x04cos\nsystem\n)}\x92.", "os.system"),
        # getattr(getattr(os, ...), ...)(...): the results are called too
        (b"c__builtin__\ngetattr\n(cposix\nsystem\nS'x'\ntR(S'y'\ntR.", "__builtin__.getattr"),
        # an allowed function with dots: the name is compared whole
        (b"\x80\x04\x8c\x05torch\x8c\x11_utils.os.system_\x93)R.", "torch._utils.os.system_"),
        (b"ctorch._utils\n_rebuild_wrapper_subclass\n(tR.", "torch._utils._rebuild_wrapper_subclass"),
    ],
)
def test_calls_in_every_spelling_yield_placeholders(program: bytes, replaced: str) -> None:
    result, names = run(program)
    assert isinstance(result, Placeholder)
    assert names[0] == replaced


def test_states_and_items_of_placeholders_are_forgotten() -> None:
    program = pickle.dumps(Touches("/nonexistent-folder/x"), 2)
    result, names = run(program)
    assert names == [f"{__name__}.Touches"]
    assert not hasattr(result, "__dict__")
    # An allowed name's result is given a state that would hide its methods, and the name itself gets attributes.
    result, names = run(
        b"ccollections\nOrderedDict\np1\n}S'__call__'\ncos\nsystem\nsb0g1\n)R}S'items'\ncos\nsystem\nsb."
    )
    assert (type(result), result, names) == (dict, {}, [])
    result, _ = run(b"cx\nY\n)R(S'a'\nI1\nuI5\naS'k'\nI2\ns.")  # SETITEMS, APPEND, SETITEM
    assert isinstance(result, Placeholder)
    result, _ = run(pickle.dumps({("a", 1): 2, "b": 3}, 2))
    assert result["b"] == 3
    assert len(result) == 2  # a key that would be hashed in depth becomes a placeholder


@pytest.mark.parametrize("program", [b"\x82\x01.", b"P1\n.", b"\x97.", b"R.", b"\x80\x02", b"h\x07.", b"\x80\x02\x86."])
def test_unknown_instructions_and_broken_programs_are_refused(program: bytes) -> None:
    with pytest.raises((ValueError, IndexError, KeyError)):
        run(program)


def test_small_programs_neither_crash_nor_take_memory() -> None:
    tracemalloc.start()
    assert run(b"\x80\x02Nr\xff\xff\xff\x0f.") == (None, [])  # LONG_BINPUT at index 2**28 - 1
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    result, _ = run(b"\x80\x02})" + b"\x85" * 300_000 + b"Ns.")  # a tuple in a tuple in a tuple, as a key
    assert [type(key) for key in result] == [Placeholder]


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_the_code_of_a_torchscript_archive_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "scripted.pth")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("torch.jit.load was called"))
    assert isinstance(read_restricted(path)[0], Placeholder)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)


def rewritten(source: Path, target: Path, **changes: bytes) -> str:
    """Copies a zip file of torch.save; entries whose name ends like a key get other bytes, or are left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = next((v for k, v in changes.items() if name.endswith(k.replace("__", "/"))), old.read(name))
            new.writestr(name, data)
    return str(target)


def test_odd_archives_are_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pth", tmp_path / "bad.pth"
    torch.save(dict(STATE), good)
    with zipfile.ZipFile(good) as archive:
        program = archive.read("good/data.pkl")
    outside = program.replace(b"X\x01\x00\x00\x000", b"X\x0d\x00\x00\x00../../../name")
    assert outside != program
    for changes in ({"data.pkl": outside}, {"data__0": b"short"}, {"data__0": bytes(4096)}, {"byteorder": b"big"},
                    {"data.pkl": b""}):  # fmt: skip
        with pytest.raises(ValueError, match="damaged"):
            read_restricted(rewritten(good, bad, **changes))
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("../../evil/data.pkl", program)
        archive.writestr("/etc/data.pkl", program)
    with pytest.raises(ValueError, match="one data.pkl"):
        read_restricted(str(bad))
    assert not (tmp_path.parent.parent / "evil").exists()
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps("x" * 10_000_000, 2))
    with pytest.raises(ValueError, match="compressed"):
        read_restricted(str(bad))


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_truncated_files_are_refused(new_format: bool, tmp_path: Path) -> None:
    path, cut = tmp_path / "w.pth", tmp_path / "cut.pth"
    torch.save({"state_dict": STATE, "hub": Buffer()}, path, _use_new_zipfile_serialization=new_format)
    data = path.read_bytes()
    read_restricted(str(path))
    for length in (0, 1, 3, 10, len(data) // 3, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(ValueError, match="damaged"):
            read_restricted(str(cut))
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            read_checkpoint(str(cut))


def test_tensors_cannot_reach_outside_of_their_data(tmp_path: Path) -> None:
    flat = torch.arange(4.0)
    machine = Machine(lambda _: flat)
    head = b"ctorch._utils\n_rebuild_tensor_v2\n(I0\nQ"
    assert machine.run(io.BytesIO(head + b"I1\n(I3\nt(I1\ntI00\nNtR.")).tolist() == [1, 2, 3]
    for offset, size, stride in ((2, 3, 1), (-1, 2, 1), (0, 2, 4), (0, 2, -1), (0, -2, 1), (0, 1 << 60, 1)):
        program = head + b"I%d\n(I%d\nt(I%d\ntI00\nNtR." % (offset, size, stride)
        with pytest.raises((RuntimeError, ValueError)):
            machine.run(io.BytesIO(program))
    # A legacy file that claims more data than it has allocates nothing.
    pid = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuI%d\nNtQ." % (1 << 50)
    parts = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": sys.byteorder == "little"})]
    (tmp_path / "big.pth").write_bytes(b"".join(parts) + b"\x80\x02" + pid + struct.pack("<q", 0))
    with pytest.raises(ValueError, match="larger than the file"):
        read_restricted(str(tmp_path / "big.pth"))


def test_the_oldest_format_is_refused_before_torch_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    assert is_tar(str(path))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was called"))
    with pytest.raises(ValueError, match="tar format of PyTorch before"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_plain_types_are_rebuilt_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "matrix": np.arange(6.0).reshape(2, 3),
        "transposed": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 3), np.float16),
        "scalar": np.array(5),
        "number": np.float32(3),
        "flags": np.array([True, False]),
        "names": np.array(["road", "car"]),
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays, protocol))
    got, replaced = read_restricted(str(tmp_path / "w.pkl"))
    assert not {name for name in replaced if "numpy" in name}
    for key, value in arrays.items():
        assert np.array_equal(got[key], value), key
        assert np.asarray(got[key]).dtype.kind == value.dtype.kind, key


def test_arrays_of_objects_are_not_read(tmp_path: Path, sentinel: Path) -> None:
    hidden = np.array([Call(os.system, f"touch {sentinel}"), None], dtype=object)
    for where in ({"model": {"w": hidden}}, {"w": hidden}):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(where, 2))
        with pytest.raises(ValueError, match=r"holds the Python object numpy\.ndarray of numpy\.dtype, which is not"):
            read_checkpoint(str(tmp_path / "w.pkl"))
    assert not sentinel.exists()
    content = {"model": {"w": np.ones(2)}, "log": hidden}  # beside the weights it is left alone
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, 2))
    assert read_checkpoint(str(tmp_path / "w.pkl")).state["w"].tolist() == [1, 1]
    assert not sentinel.exists()


class Evil(np.ndarray):  # type: ignore[type-arg]
    """A subclass that a file names in place of numpy's own class."""


@pytest.mark.parametrize(
    "program",
    [
        b"cnumpy.core.multiarray\nfromfile\n(S'/etc/passwd'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct.os\n(tR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.",
        b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR.",
        b"cnumpy\ndtype\n(S'f8,O'\nI00\nI01\ntR.",
        pickle.dumps(np.arange(3).view(Evil), 2),
    ],
)
def test_of_numpy_nothing_else_is_built(program: bytes) -> None:
    result, names = run(program)
    assert isinstance(result, Placeholder)
    assert names


def test_one_block_of_data_does_not_become_many_arrays(tmp_path: Path) -> None:
    data = np.zeros(1 << 17)
    head = pickle.dumps(data, 2)
    build = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    start = b"\x80\x02(cnumpy\ndtype\n(S'f8'\nI00\nI01\ntRq\x00B" + struct.pack("<I", data.nbytes) + bytes(data.nbytes)
    many = build + b"(I1\n(I%d\ntg0\nI00\ng1\ntb" % data.size
    program = start.replace(b"q\x00", b"p0\n") + b"p1\n" + many * 50 + b"l."
    (tmp_path / "w.pkl").write_bytes(program)
    assert len(head) > data.nbytes
    with pytest.raises(ValueError, match="arrays are larger than the file"):
        read_restricted(str(tmp_path / "w.pkl"))


def test_a_pickle_of_tensors_is_read_and_its_data_counted(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(dict(STATE), 4))
    got, _ = read_restricted(str(tmp_path / "w.pkl"))
    assert all(torch.equal(got[key], value) for key, value in STATE.items())
    inner = pickle.dumps(pickle.dumps({"a": 1}, 2), 2)[2:-1]  # bytes that are no file of torch.save
    program = b"\x80\x02ctorch.storage\n_load_from_bytes\n" + inner + b"\x85R."
    (tmp_path / "w.pkl").write_bytes(program)
    with pytest.raises(ValueError, match="does not begin like a file of torch.save"):
        read_restricted(str(tmp_path / "w.pkl"))
