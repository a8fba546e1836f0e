"""Restricted reader of torch's two file formats and of plain pickles, on the pickle interpreter of `unpickle`."""

from __future__ import annotations

import io
import os
import struct
import sys
import tarfile
import zipfile
from typing import IO, Any

import torch
from torch import Tensor

from .unpickle import Machine, Placeholder

STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
ZIP_MAGIC = b"PK\x03\x04"
# First value in files of torch before 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def is_tar(path: str) -> bool:
    """Returns whether a file is in torch's oldest format, whose reader in older PyTorch can be made to run code."""
    with open(path, "rb") as f:
        return f.read(4) != ZIP_MAGIC and tarfile.is_tarfile(path)


def read_restricted(path: str) -> tuple[Any, tuple[str, ...]]:
    """Reads a file of torch.save without executing anything in it.

    Args:
        path: file, in the zip format, that of torch before 1.6, or a plain pickle as Detectron2 writes it.

    Returns:
        Its content with tensors and plain values rebuilt, and the names of what was replaced by placeholders.

    Raises:
        ValueError: the file is damaged or in another format.
    """
    try:
        with open(path, "rb") as f:
            is_zip = f.read(4) == ZIP_MAGIC
            f.seek(0)
            return _read_zip(path) if is_zip else _read_legacy(f, os.path.getsize(path))
    except Exception as error:  # a damaged or hostile pickle can raise errors of many types
        raise ValueError(f"the file is damaged or no file of torch.save ({error})") from error


def _read_zip(path: str) -> tuple[Any, tuple[str, ...]]:
    with zipfile.ZipFile(path) as archive:
        pickles = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("expected one data.pkl in the archive")
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order).decode() != sys.byteorder:
            raise ValueError("it was written on a machine of another byte order")
        loaded: dict[str, Tensor] = {}

        def load(persistent_id: Any) -> Tensor:
            dtype, key, count, _ = _storage(persistent_id)
            if key not in loaded:
                with archive.open(f"{folder}data/{key}") as f:
                    loaded[key] = _filled(f, dtype, count, os.path.getsize(path))
            return loaded[key].view(dtype)

        if archive.getinfo(pickles[0]).file_size > os.path.getsize(path):
            raise ValueError("its pickle is compressed, which torch.save does not do")
        machine = Machine(load, os.path.getsize(path))
        content = machine.run(io.BytesIO(archive.read(pickles[0])))
        return content, tuple(machine.replaced)


def _read_legacy(f: IO[bytes], limit: int, nested: bool = False) -> tuple[Any, tuple[str, ...]]:
    loaded: dict[str, Tensor] = {}

    def load(persistent_id: Any) -> Tensor:
        dtype, key, count, view = _storage(persistent_id)
        if key not in loaded:
            _check_size(dtype, count, limit - sum(flat.nbytes for flat in loaded.values()))
            loaded[key] = torch.zeros(count, dtype=dtype)  # the data comes after the pickle
        return loaded[key] if view is None else loaded[key][view[1] : view[1] + view[2]]

    # A plain pickle of tensors holds a file of torch.save for the data of each.
    machine = Machine(load, limit, None if nested else lambda data: _read_legacy(io.BytesIO(data), len(data), True)[0])
    first = machine.run(f)
    if type(first) is not int or first != LEGACY_MAGIC:
        if nested or loaded:
            raise ValueError("it does not begin like a file of torch.save")
        return first, tuple(machine.replaced)
    machine.run(f)
    if machine.run(f)["little_endian"] != (sys.byteorder == "little"):
        raise ValueError("it was written on a machine of another byte order")
    content = machine.run(f)
    for key in machine.run(f):
        (count,) = struct.unpack("<q" if sys.byteorder == "little" else ">q", f.read(8))
        if count != loaded[key].numel():
            raise ValueError(f"data block {key} has another length than its tensors")
        _read_into(f, loaded[key])
    return content, tuple(machine.replaced)


def _storage(persistent_id: Any) -> tuple[torch.dtype, str, int, Any]:
    kind, storage, key, _, count, *view = persistent_id
    if kind != "storage" or not isinstance(storage, Placeholder) or storage.name not in STORAGES:
        raise ValueError(f"{storage} is no data of a tensor")
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ValueError("the reference to a tensor's data is malformed")
    return STORAGES[storage.name], key, count, view[0] if view else None


def _check_size(dtype: torch.dtype, count: int, limit: int) -> None:
    if count * dtype.itemsize > limit:
        raise ValueError("a tensor is larger than the file")


def _filled(f: IO[bytes], dtype: torch.dtype, count: int, limit: int) -> Tensor:
    _check_size(dtype, count, limit)
    flat = torch.empty(count, dtype=dtype)
    _read_into(f, flat)
    if f.read(1):
        raise ValueError("a data block is longer than its tensor")
    return flat


def _read_into(f: IO[bytes], flat: Tensor) -> None:
    if flat.numel() == 0:
        return
    wanted = flat.view(torch.uint8).numpy().data
    while len(wanted):
        got = f.readinto(wanted)  # type: ignore[attr-defined]
        if not got:
            raise ValueError("a tensor's data ends early")
        wanted = wanted[got:]
