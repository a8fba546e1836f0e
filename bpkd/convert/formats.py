"""What a file is that was given as a checkpoint, by its first bytes: one that is read, or what to do with another."""

from __future__ import annotations

import codecs
import json
import os
import re
import tarfile
import zipfile

ZIP_MAGIC = b"PK\x03\x04"
# Beginning of a file of torch before 1.6.
OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
# Names for what `kind_of` returns of a file that is read.
READ = ("torch", "pickle", "safetensors", "npz", "index")
TAR = "it is in the tar format of PyTorch before 0.1.10, which is not read. Load and save it there with a newer PyTorch"
UNPACK = "Unpack it, and give the file in it"
AGAIN = "Download it again"
# First bytes, or those at an offset, and what such a file is.
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a git-lfs pointer, not the file it stands for. Run git lfs pull, or download it"),
    (0, b"\x1f\x8b", f"compressed by gzip. {UNPACK}"),
    (0, b"BZh", f"compressed by bzip2. {UNPACK}"),
    (0, b"\xfd7zXZ\x00", f"compressed by xz. {UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"compressed by zstd. {UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7z archive. {UNPACK}"),
    (0, b"Rar!", f"a RAR archive. {UNPACK}"),
    (
        0,
        b"\x93NUMPY",
        "one array of numpy (.npy), without the names of weights. Save a dict of arrays with numpy.savez",
    ),
    (0, b"\x89HDF\r\n", "an HDF5 file (Keras), for TensorFlow's networks. Use a PyTorch file of the network"),
    (4, b"TFL3", "a network of TensorFlow Lite. Use a PyTorch file of the network"),
    (0, b"GGUF", "a GGUF file. Use a PyTorch file of the network"),
    (0, b"ftrt", "a TensorRT engine, which holds no weights to load. Give the checkpoint that it was built from"),
    (0, b"ptrt", "a TensorRT engine, which holds no weights to load. Give the checkpoint that it was built from"),
    (0, b"\x89PNG", "an image. Give the path of the weights"),
    (0, b"\xff\xd8\xff", "an image. Give the path of the weights"),
    (0, b"%PDF", "a PDF document. Give the path of the weights"),
    (0, b"SQLite format", "an SQLite database. Give the path of the weights"),
    (0, b"\x7fELF", "a program or library. Give the path of the weights"),
)
# Formats without a mark of their own.
SUFFIXES = {
    ".onnx": "an ONNX file, which holds a graph. Give the checkpoint that it was exported from",
    ".engine": "a TensorRT engine, which holds no weights to load. Give the checkpoint that it was built from",
    ".plan": "a TensorRT engine, which holds no weights to load. Give the checkpoint that it was built from",
    ".pb": "a graph of TensorFlow. Use a PyTorch file of the network",
    ".tflite": "a network of TensorFlow Lite. Use a PyTorch file of the network",
    ".mlmodel": "a network of Core ML. Give the checkpoint that it was exported from",
    ".distcp": "one part of a distributed checkpoint. Join its folder: python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth",
}
EXPORTED = "A teacher of this kind is given as TEACHER.EXPORTED; else give the checkpoint that it was exported from"
SHARD = re.compile(r"^(.*)-(\d+)-of-(\d+)(\.safetensors|\.bin)$")
# Beginnings of a pickle in the text protocol, which Python 2 used unless told otherwise.
TEXT_PICKLES = (b"(dp", b"(lp", b"ccollections\nOrderedDict")
# torch.save stores, so a file's entries are not larger than the file; deflate makes at most 1/1032 of what it packs.
MOST_UNPACKED = 20


def kind_of(path: str) -> str:
    """Returns which of `READ` a file is; otherwise what it is and what to do, a sentence without subject and stop.

    Args:
        path: a file that exists.
    """
    size = os.path.getsize(path)
    if size == 0:
        return "it is empty (0 bytes). Download or copy it again"
    with open(path, "rb") as f:
        head = f.read(4096)
    for offset, mark, what in SIGNATURES:
        if head[offset:].startswith(mark):
            return f"it is {what}"
    if not head.strip(b"\0"):
        return f"it begins with {len(head)} zero bytes: the download or copy was interrupted. {AGAIN}"
    if head.startswith(ZIP_MAGIC):
        return _zip_kind(path)
    if _is_safetensors(head, size, path):
        return "safetensors"
    if head[257:262] == b"ustar" or (head[:1] != b"\x80" and tarfile.is_tarfile(path)):
        return _tar_kind(path)
    if head.startswith(OLD_TORCH):
        return "torch"
    if head[:1] == b"\x80" or head.startswith(TEXT_PICKLES):
        return "pickle"
    suffix = os.path.splitext(path)[1].lower()
    return _text_kind(head, path) or (f"it is {SUFFIXES[suffix]}" if suffix in SUFFIXES else _unknown(head, path))


def folder_kind(path: str) -> str:
    """Returns what to give in place of a folder, a sentence like that of `kind_of`."""
    names = sorted(os.listdir(path))
    if ".metadata" in names and any(n.endswith(".distcp") for n in names):
        return f"it is the folder of a distributed checkpoint. {SUFFIXES['.distcp'].partition('. ')[2]}"
    if "zero_to_fp32.py" in names:
        return "it is DeepSpeed's folder. Join its parts: python zero_to_fp32.py . FILE.pth, there, and give that file"
    if "saved_model.pb" in names:
        return "it is TensorFlow's SavedModel. Use a PyTorch file of the network"
    wanted = (".safetensors.index.json", ".bin.index.json", ".safetensors", ".bin", ".pth", ".pt", ".pkl", ".ckpt")
    found = [n for end in wanted for n in names if n.endswith(end) and not SHARD.match(n)]
    if found:
        return f"it is a folder. Give the file in it: {', '.join(dict.fromkeys(found[:4]))}"
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"it is a folder without a checkpoint ({shown or 'empty'}). Give the path of a file"


def unpacked_size(path: str) -> str:
    """Returns why an archive is not unpacked, "" if it can be: it would become much larger than it is."""
    with zipfile.ZipFile(path) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    most = max(MOST_UNPACKED * os.path.getsize(path), 1 << 26)
    return f"its entries would unpack to {total / 1e9:.1f} GB. Use another copy" if total > most else ""


def _zip_kind(path: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return f"the file is damaged: it begins like an archive and its end is missing. {AGAIN}"
    except Exception as error:  # a changed directory raises errors of other types
        return f"the file is damaged: it begins like an archive ({str(error)[:80]}). {AGAIN}"
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return f"it is a TorchScript archive, which holds a program. {EXPORTED}"
    if "archive_format" in inner or any("serialized_exported_program" in name for name in names):
        return f"it is a torch.export file (.pt2), which holds a program. {EXPORTED}"
    if "data.pkl" in inner:
        return unpacked_size(path) or "torch"
    if names and all(name.endswith(".npy") for name in names):
        return unpacked_size(path) or "npz"
    if "model.weights.h5" in names:
        return "it is a Keras file, for TensorFlow's networks. Use a PyTorch file of the network"
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"it is a zip archive of other files ({shown or 'empty'}). {UNPACK}"


def _tar_kind(path: str) -> str:
    try:
        with tarfile.open(path) as archive:
            names = [entry.name for _, entry in zip(range(8), archive, strict=False)]
    except Exception:  # tarfile raises errors of several types
        return f"the file is damaged: it begins like a tar archive. {AGAIN}"
    if {"storages", "tensors", "pickle"} <= {name.removeprefix("./") for name in names}:
        return TAR
    return f"it is a tar archive of other files ({', '.join(names[:3])}). {UNPACK}"


def _is_safetensors(head: bytes, size: int, path: str) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and (length < size or path.endswith(".safetensors"))


def _text_kind(head: bytes, path: str) -> str:
    """What a text is, or "" for none."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is a text in UTF-16. Give the path of the weights"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return ""
    if any(ord(c) < 32 and c not in "\t\n\r\f" for c in text):
        return ""
    start = text.lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body", "<!--")):
        return (
            "it is an HTML page (of a login, an error or a download link) that was saved under this name. Download the "
            "file itself, in a browser or with a token"
        )
    if start.startswith("<"):
        return "it is an XML text, as servers answer with errors. Download the file itself"
    if start.startswith(("{", "[")):
        return _json_kind(path)
    if path.lower().endswith((".yaml", ".yml", ".py")):
        return "it is a config. Give it as --config-file or CONFIG_FILE, and the path of the weights here"
    return (
        f"it is a text that begins with {start.splitlines()[0][:40] if start else ''!r}. Give the path of the weights"
    )


def _json_kind(path: str) -> str:
    if os.path.getsize(path) < 1 << 26:
        try:
            with open(path, encoding="utf-8-sig") as f:
                content = json.load(f)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
            return "index"
    return "it is a JSON text, without weights. Give the path of the weights"


def _unknown(head: bytes, path: str) -> str:
    if path.endswith(".safetensors"):
        return f"the file is damaged: it does not begin like a safetensors file. {AGAIN}"
    return (
        f"the file is damaged, or in a format that is not known here (its first bytes are {head[:4].hex(' ')}). "
        f"{AGAIN}, or save the state dict with torch.save"
    )
