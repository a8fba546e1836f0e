"""Weights as people have them: files of other programs, wrapped, renamed, cut off, mistaken for others."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import re
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from bpkd.cli.main import run
from bpkd.convert import load_backbone, load_strict, read_checkpoint
from bpkd.modeling import build_student
from bpkd.modeling.teachers.build import build_teacher_model
from tests.helpers.tiny_networks import CLASSES, TINY, tiny_cfg

State = dict[str, Tensor]


@pytest.fixture
def config(tmp_path: Path) -> str:
    tiny_cfg()  # registers the data set
    (tmp_path / "tiny.yaml").write_text(f"VERSION: 2{TINY}")
    return str(tmp_path / "tiny.yaml")


def weights(seed: int = 3) -> State:
    """Weights that no fresh network has."""
    torch.manual_seed(seed)
    state = build_student(tiny_cfg()).state_dict()
    return {k: torch.randn_like(v) if v.is_floating_point() else v + 5 for k, v in state.items()}


def other(state: State) -> State:
    return {k: v + 1 for k, v in state.items()}


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{k}": v for k, v in state.items()}


def arrays(state: State) -> dict[str, Any]:
    return {k: v.numpy() for k, v in state.items()}


def saved(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def pickled(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def tensors(path: Path, state: State, **notes: str) -> Path:
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata={"format": "pt", **notes})
    return path


def shards(folder: Path, state: State, ending: str = "safetensors") -> Path:
    keys, names = sorted(state), [f"model-0000{i}-of-00002.{ending}" for i in (1, 2)]
    parts = [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
    for name, part in zip(names, parts, strict=True):
        own = {k: state[k] for k in part}
        tensors(folder / name, own) if ending == "safetensors" else saved(folder / name, own)
    where = {k: name for name, part in zip(names, parts, strict=True) for k in part}
    index = folder / f"model.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def lightning(folder: Path, s: State) -> Path:
    content = {
        "pytorch-lightning_version": "2.4.0", "epoch": 3,
        "state_dict": {**under("net.", s), "loss.weight": torch.ones(5)},
        "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "loops": {}, "optimizer_states": [{}],
    }  # fmt: skip
    return saved(folder / "last.ckpt", content)


def npz(folder: Path, s: State) -> Path:
    np.savez_compressed(folder / "w.npz", **arrays(s))
    return folder / "w.npz"


Maker = Callable[[Path, State], Path]
# Name -> (maker, what the log must say).
LOADED: dict[str, tuple[Maker, str]] = {
    "safetensors": (lambda d, s: tensors(d / "model.safetensors", s), "loaded"),
    "safetensors of fp16": (
        lambda d, s: tensors(d / "w.safetensors", {k: v.half() if v.is_floating_point() else v for k, v in s.items()}),
        "float16 and become float32",
    ),
    "safetensors under another name": (lambda d, s: tensors(d / "w.bin", s), "loaded"),
    "shards of safetensors": (lambda d, s: shards(d, s), "loaded"),
    "shards of torch": (lambda d, s: shards(d, s, "bin"), "loaded"),
    "detectron2 pkl": (
        lambda d, s: pickled(d / "w.pkl", {"model": arrays(s), "__author__": "me", "matching_heuristics": True}),
        "loaded",
    ),
    "pkl of blobs": (lambda d, s: pickled(d / "w.pkl", {"blobs": arrays(s)}), "loaded"),
    "pkl of python 2 text": (lambda d, s: pickled(d / "w.pkl", {"model": arrays(s)}, 0), "loaded"),
    "pkl in protocol 5": (lambda d, s: pickled(d / "w.pkl", arrays(s), 5), "loaded"),
    "pickle.dump of tensors": (lambda d, s: pickled(d / "w.pkl", s, 4), "loaded"),
    "arrays in a .pth": (lambda d, s: saved(d / "w.pth", {"state_dict": arrays(s)}), "loaded"),
    "npz": (npz, "loaded"),
    "ddp and compile": (lambda d, s: saved(d / "w.pth", under("module._orig_mod.", s)), "_orig_mod. from the keys"),
    "compiled part": (
        lambda d, s: saved(d / "w.pth", {k.replace("backbone.", "backbone._orig_mod."): v for k, v in s.items()}),
        "stripped _orig_mod. from the keys",
    ),
    "module._orig_mod.model.": (
        lambda d, s: saved(d / "w.pth", {"state_dict": under("module._orig_mod.model.", s)}),
        "stripped model. from",
    ),
    "lightning with a loss": (lightning, "net.*"),
    "deepspeed": (lambda d, s: saved(d / "mp_rank_00_model_states.pt", {"module": s, "ds_version": "0.14"}), "loaded"),
    "fsdp": (lambda d, s: saved(d / "w.pth", under("_fsdp_wrapped_module.", s)), "_fsdp_wrapped_module."),
    "model_ema beside model": (
        lambda d, s: saved(d / "w.pth", {"model": other(s), "model_ema": s, "epoch": 3}),
        "took the entry model_ema (averaged weights",
    ),
    "timm state_dict_ema": (
        lambda d, s: saved(d / "w.pth", {"arch": "x", "state_dict": other(s), "state_dict_ema": s}),
        "took the entry state_dict_ema",
    ),
    "ema of ema": (
        lambda d, s: saved(d / "w.pth", {"ema": {"module": s, "decay": 0.9}, "n": 3}), "took the entry ema.module"
    ),
    "averages of torch": (
        lambda d, s: saved(d / "w.pth", {**under("module.", s), "n_averaged": torch.tensor(9)}), "left n_averaged"
    ),
    "averages of mmcv": (
        lambda d, s: saved(
            d / "w.pth", {"meta": {}, "state_dict": {**s, **{f"ema_{k.replace('.', '_')}": v for k, v in s.items()}}}
        ),
        "no part of the network (ema_",
    ),
    "ddp alone": (lambda d, s: saved(d / "w.pth", {"state_dict": under("module.", s)}), "stripped module. from"),
    "mmengine swaps its averages": (
        lambda d, s: saved(
            d / "w.pth",
            {"meta": {"mmengine_version": "0.10"}, "state_dict": s, "ema_state_dict": under("module.", other(s))},
        ),
        "took the entry state_dict (in OpenMMLab's files the averaged weights)",
    ),
    "ema beside model in the keys": (
        lambda d, s: saved(d / "w.ckpt", {"state_dict": {**under("model.", other(s)), **under("ema_model.", s)}}),
        "took the weights of ema_model.*",
    ),
    "student and teacher in the keys": (
        lambda d, s: saved(d / "w.pth", {**under("teacher.", other(s)), **under("student.", s)}),
        "took the weights of student.*",
    ),
    "student and teacher as entries": (
        lambda d, s: saved(d / "w.pth", {"teacher": under("module.", other(s)), "student": under("module.", s)}),
        "took the entry student",
    ),
    "a teacher left inside the network": (
        lambda d, s: saved(d / "w.pth", {**s, **under("teacher.", other(s))}),
        "that are no part of the network (teacher)",
    ),
    "buffers of detectron2": (
        lambda d, s: saved(
            d / "w.pth",
            {
                "model": {
                    **s,
                    "pixel_mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
                    "pixel_std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
                }
            },
        ),
        "no part of the network",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOADED)
def test_weights_are_read_and_what_was_done_is_said(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, said = LOADED[name]
    wanted = weights()
    path, model = make(tmp_path, wanted), build_student(tiny_cfg())
    with caplog.at_level("INFO"):
        load_strict(model, str(path))
    assert said in caplog.text
    for key, value in model.state_dict().items():
        assert torch.allclose(value, wanted[key], atol=2e-3), key


def html(path: Path, _: State) -> Path:
    path = path / "w.pth"
    path.write_text("\n<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head></html>")
    return path


def text(name: str, content: str | bytes) -> Maker:
    def make(folder: Path, _: State) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return make


def cut(make: Maker, share: float) -> Maker:
    def made(folder: Path, s: State) -> Path:
        path = make(folder, s)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        return path

    return made


def packed(folder: Path, s: State) -> Path:
    inner = saved(folder / "inner.pth", s)
    (folder / "w.pth").write_bytes(gzip.compress(inner.read_bytes()))
    return folder / "w.pth"


def zipped(folder: Path, s: State) -> Path:
    with zipfile.ZipFile(folder / "w.zip", "w") as archive:
        archive.write(saved(folder / "inner.pth", s), "run/inner.pth")
    return folder / "w.zip"


def tarred(folder: Path, s: State) -> Path:
    with tarfile.open(folder / "w.tar", "w") as archive:
        archive.add(saved(folder / "inner.pth", s), "run/inner.pth")
    return folder / "w.tar"


def snapshot(folder: Path, s: State) -> Path:
    (folder / "hub").mkdir()
    (folder / "hub" / "config.json").write_text("{}")
    tensors(folder / "hub" / "model.safetensors", s)
    return folder / "hub"


def shard_alone(folder: Path, s: State) -> Path:
    return shards(folder, s).with_name("model-00001-of-00002.safetensors")


def shard_missing(folder: Path, s: State) -> Path:
    index = shards(folder, s)
    index.with_name("model-00002-of-00002.safetensors").unlink()
    return index


def hostile_index(folder: Path, s: State) -> Path:
    index = shards(folder, s)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    return index


def header(length: int, rest: bytes) -> bytes:
    return struct.pack("<Q", length) + rest


def claims(shape: list[int], end: int) -> bytes:
    head = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return header(len(head), head)


def altered(folder: Path, s: State) -> Path:
    assert run("convert", [str(saved(folder / "s.pth", {"state_dict": s, "meta": {}})), str(folder / "w.safetensors"),
                           "--config-file", str(folder / "tiny.yaml")]) == 0  # fmt: skip
    data = bytearray((folder / "w.safetensors").read_bytes())
    data[-100] ^= 1
    (folder / "w.safetensors").write_bytes(bytes(data))
    return folder / "w.safetensors"


def bomb(folder: Path, _: State) -> Path:
    with zipfile.ZipFile(folder / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("w.npy", "w") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": (1 << 25,)})
        for _i in range(128):
            f.write(bytes(1 << 20))
    return folder / "w.npz"


def scripted(folder: Path, _: State) -> Path:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(folder / "w.pt"))
    return folder / "w.pt"


def quantised(s: State) -> State:
    return {k: (v * 10).to(torch.int8) if v.dim() == 4 else v for k, v in s.items()}


def caffe(s: State) -> dict[str, Any]:
    return {"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "res5_0_branch2a_w": np.zeros(1, np.float32)}


MMSEG = """model = dict(
    data_preprocessor=dict(
        bgr_to_rgb=False,
        mean=[
            103.53,
            116.28,
            123.675,
        ],
        std=[1.0, 1.0, 1.0],
        type='SegDataPreProcessor'))
"""
SSD = "img_norm_cfg = dict(\n    mean=[0, 0, 0], std=[255.0, 255.0, 255.0], to_rgb=True)"
STATED = {"pixel_mean": [127.5] * 3, "pixel_std": [127.5] * 3, "input_format": "RGB"}


def beside(name: str, content: str) -> Maker:
    def make(folder: Path, s: State) -> Path:
        (folder / name).write_text(content)
        return tensors(folder / "model.safetensors", s)

    return make


YAML = "MODEL: {PIXEL_MEAN: [103.53, 116.28, 123.675], PIXEL_STD: [1.0, 1.0, 1.0]}\nINPUT: {FORMAT: BGR}\n"
# Name -> (maker, what the one line says).
REFUSED: dict[str, tuple[Maker, str]] = {
    "git-lfs": (
        text("w.pth", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "git-lfs pointer.*git lfs pull",
    ),
    "html": (html, "HTML page.*Download the file itself"),
    "xml": (text("w.pth", "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"), "XML text"),
    "json": (text("w.pth", '{"error": "not found"}'), "JSON text"),
    "yaml": (text("w.yaml", "MODEL: {}\n"), "is a config"),
    "text": (text("w.pth", "Entry not found"), "a text that begins with 'entry not found'"),
    "empty": (text("w.pth", b""), "is empty .0 bytes"),
    "zeros": (text("w.pth", bytes(9000)), "zero bytes: the download"),
    "rubbish": (text("w.pth", b"\x01\xfe\x07" * 99), "not known here"),
    "gzip": (packed, "compressed by gzip"),
    "zip": (zipped, r"zip archive of other files \(run/inner.pth\)"),
    "tar": (tarred, r"tar archive of other files \(run/inner.pth\)"),
    "folder": (snapshot, "is a folder. Give the file in it: model.safetensors"),
    "shard alone": (shard_alone, "one of 2 files.*model.safetensors.index.json"),
    "shard missing": (shard_missing, "1 are missing beside it .model-00002"),
    "hostile index": (hostile_index, "outside of its folder"),
    "hdf5": (text("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5 file .Keras"),
    "onnx": (text("w.onnx", b"\x08\x08\x12\x07pytorch" + bytes(range(200))), "ONNX file"),
    "engine": (text("w.engine", b"ftrt" + bytes(99)), "TensorRT engine"),
    "npy": (text("w.npy", b"\x93NUMPY" + bytes(99)), "one array of numpy"),
    "png": (text("w.pth", b"\x89PNG\r\n\x1a\n" + bytes(99)), "an image"),
    "torchscript": (scripted, "TorchScript archive.*TEACHER.EXPORTED"),
    "whole module": (lambda d, s: saved(d / "w.pth", torchvision.models.resnet18()), "object .*ResNet as a whole"),
    "optimizer": (lambda d, s: saved(d / "w.pth", {"optimizer": {"state": {}}, "epoch": 1}), "of an optimizer"),
    "bare optimizer": (lambda d, s: saved(d / "w.pth", {"state": {}, "param_groups": []}), "of an optimizer"),
    "fsdp flat": (lambda d, s: saved(d / "w.pth", {"_flat_param": torch.ones(3)}), "FSDP's flattened"),
    "int8": (lambda d, s: saved(d / "w.pth", quantised(s)), "weights are int8.*quantised"),
    "quantised": (
        lambda d, s: saved(d / "w.pth", {"w": torch.quantize_per_tensor(torch.ones(3), 1, 0, torch.qint8)}),
        "quantisation",
    ),
    "nan in safetensors": (
        lambda d, s: tensors(d / "w.safetensors", {**s, "decode_head.conv_seg.bias": torch.full((5,), torch.nan)}),
        "1 weights that are not finite, first decode_head.conv_seg.bias",
    ),
    "safetensors cut": (cut(lambda d, s: tensors(d / "w.safetensors", s), 0.7), "safetensors.*damaged"),
    "safetensors cut in its header": (cut(lambda d, s: tensors(d / "w.safetensors", s), 0.01), "damaged"),
    "safetensors altered": (altered, "another SHA-256"),
    "header of a terabyte": (text("w.safetensors", header(1 << 40, b"{}")), "header says it has"),
    "tensor of a terabyte": (text("w.safetensors", claims([1 << 38], 1 << 40)), "safetensors.*damaged"),
    "tensor of a terabyte without data": (text("w.safetensors", claims([1 << 38], 0)), "safetensors.*damaged"),
    "pkl cut": (cut(lambda d, s: pickled(d / "w.pkl", {"model": arrays(s)}), 0.5), "damaged"),
    "npz bomb": (bomb, "would unpack to"),
    "two networks": (
        lambda d, s: saved(d / "w.pth", {**under("net_a.", s), **under("net_b.", other(s))}),
        r"2 networks that fit, net_a\.\*, net_b\.\*.*--take net_a",
    ),
    "two entries": (
        lambda d, s: saved(d / "w.pth", {"generator": s, "critic": other(s)}),
        "under generator, critic.*--take generator",
    ),
    "two entries with usual names": (
        lambda d, s: saved(d / "w.pth", {"model": s, "net": other(s)}), "under model, net.*--take model"
    ),
    "on the device meta": (
        lambda d, s: saved(d / "w.pth", {k: v.to("meta") for k, v in s.items()}), "without plain numbers"
    ),
    "sparse": (
        lambda d, s: saved(d / "w.pth", {**s, "decode_head.conv_seg.bias": torch.eye(5).to_sparse()}),
        "1 weights without plain numbers .sparse.* first decode_head.conv_seg.bias",
    ),
    "float8": (
        lambda d, s: saved(d / "w.pth", {"w": torch.ones(3).to(torch.float8_e4m3fn)}), "float8_e4m3fn, first w"
    ),
    "a value among the weights": (lambda d, s: saved(d / "w.pth", {**s, "epoch": 3}), "int under 'epoch'"),
    "msra's R-50": (
        lambda d, s: pickled(d / "R-50.pkl", caffe(s)), "Caffe2's ResNet .* cannot be converted.*torchvision"
    ),
}  # fmt: skip


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str], command: str = "convert") -> str:
    for name in ("fvcore", "detectron2", "bpkd"):  # those of other tests' runs write to what is closed by now
        logging.getLogger(name).handlers.clear()
    capsys.readouterr()
    assert run(command, argv) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line


@pytest.mark.filterwarnings("ignore")  # torch.jit and torch.quantize are deprecated
@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_called_what_they_are(
    name: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, said = REFUSED[name]
    path = make(tmp_path, weights())
    line = refusal([str(path), str(tmp_path / "dst.pth"), "--config-file", config], capsys)
    assert re.search(said, line), line
    assert path.name in line
    assert not (tmp_path / "dst.pth").exists()


CONTRADICTIONS: dict[str, tuple[Maker, str]] = {
    "ours": (lambda d, s: saved(d / "w.pth", {"model": s, "bpkd": STATED}), "its entry bpkd"),
    "ours as safetensors": (lambda d, s: tensors(d / "w.safetensors", s, bpkd=json.dumps(STATED)), "its entry bpkd"),
    "ours of BGR": (
        lambda d, s: saved(
            d / "w.pth",
            {
                "model": s,
                "bpkd": {
                    "pixel_mean": [123.675, 116.28, 103.53],
                    "pixel_std": [58.395, 57.12, 57.375],
                    "input_format": "BGR",
                },
            },
        ),
        "expect BGR",
    ),
    "caffe's author": (
        lambda d, s: pickled(d / "w.pkl", {"model": arrays(s), "__author__": "Caffe2"}), "by its author, Caffe2"
    ),
    "buffers": (
        lambda d, s: saved(
            d / "w.pth",
            {"model": {**s, "pixel_mean": torch.full((3, 1, 1), 127.5), "pixel_std": torch.full((3, 1, 1), 127.5)}},
        ),
        "its buffer pixel_mean",
    ),
    "openmmlab 1.x": (
        lambda d, s: saved(d / "w.pth", {"state_dict": s, "meta": {"cfg": MMSEG}}),
        r"expect BGR, mean \[103.53.*meta.cfg",
    ),
    "openmmlab 0.x": (
        lambda d, s: saved(d / "w.pth", {"state_dict": s, "meta": {"config": SSD}}), r"RGB, mean \[0.0.*meta.config"
    ),
    "openmmlab's dict": (
        lambda d, s: saved(
            d / "w.pth",
            {"state_dict": s, "meta": {"img_norm_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1], "to_rgb": False}}},
        ),
        "meta.img_norm_cfg",
    ),
    "timm's config.json": (
        beside("config.json", json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})),
        r"mean \[127.5.*config.json beside it",
    ),
    "timm's metadata": (
        lambda d, s: tensors(d / "w.safetensors", s, pretrained_cfg=json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3})),
        "its metadata",
    ),
    "the run's config.yaml": (beside("config.yaml", YAML), "expect BGR.*config.yaml beside it"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_file_that_contradicts_the_config_is_refused_or_meant(
    name: str, config: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, said = CONTRADICTIONS[name]
    path = make(tmp_path, weights())
    key = ("TEACHER.CONFIG_FILE", config, "TEACHER.WEIGHTS", str(path))
    with pytest.raises(ValueError, match=rf"TEACHER\.WEIGHTS .*{said}.*MODEL\.PIXEL_MEAN.*FILE_STATEMENTS") as error:
        build_teacher_model(tiny_cfg(*key))
    assert path.name in str(error.value)
    with pytest.raises(ValueError, match=said):
        load_strict(build_student(tiny_cfg()), str(path))
    build_teacher_model(tiny_cfg(*key, "TEACHER.OPTS", ["MODEL.FILE_STATEMENTS", "warn"]))
    assert "the weights expect" in caplog.text
    stated = read_checkpoint(str(path)).pixels
    assert stated is not None
    obeyed = ["MODEL.PIXEL_MEAN", list(stated.mean), "MODEL.PIXEL_STD", list(stated.std)]
    obeyed += ["INPUT.FORMAT", stated.order] if stated.order else []
    model = build_teacher_model(tiny_cfg(*key, "TEACHER.OPTS", obeyed))
    assert model.pixel_mean.flatten().tolist() == pytest.approx(list(stated.mean))


AGREEING: dict[str, Maker] = {
    "rounded": lambda d, s: saved(
        d / "w.pth",
        {"model": s, "bpkd": {"pixel_mean": [123.68, 116.28, 103.53], "pixel_std": [58.4, 57.12, 57.38]}},
    ),
    "timm": beside("config.json", json.dumps({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})),
    "detectron2's torchvision": lambda d, s: pickled(d / "w.pkl", {"model": arrays(s), "__author__": "torchvision"}),
    "a config.json of something else": beside("config.json", '{"mean": "none", "architectures": []}'),
    "a config.yaml that is none": beside("config.yaml", "a: [1\n"),
    "no statement": lambda d, s: saved(d / "w.pth", s),
}


@pytest.mark.parametrize("name", AGREEING)
def test_what_agrees_or_says_nothing_loads(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_strict(build_student(tiny_cfg()), str(AGREEING[name](tmp_path, weights())))
    assert "the weights expect" not in caplog.text


def test_the_door_of_the_teacher_takes_the_teacher(
    config: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = weights()
    path = saved(tmp_path / "w.pth", {**under("module.student.", other(state)), **under("module.teacher.", state)})
    model = build_teacher_model(tiny_cfg("TEACHER.CONFIG_FILE", config, "TEACHER.WEIGHTS", str(path)))
    assert torch.equal(model.state_dict()["decode_head.conv_seg.weight"], state["decode_head.conv_seg.weight"])
    assert "took the weights of teacher.*, as is asked for here, and left student.*" in caplog.text


def test_either_network_can_be_taken(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = weights()
    both = saved(tmp_path / "w.pth", {"model": state, "model_ema": other(state)})
    keys = saved(tmp_path / "k.pth", {**under("net_a.", other(state)), **under("net_b.", state)})
    for src, take in ((both, "model"), (keys, "net_b")):
        argv = [str(src), str(tmp_path / "dst.pth"), "--config-file", config, "--force", "--source", "mmseg"]
        assert run("convert", [*argv, "--take", take]) == 0
        got = torch.load(tmp_path / "dst.pth", weights_only=True)["model"]
        assert torch.equal(got["decode_head.conv_seg.bias"], state["decode_head.conv_seg.bias"])
        assert "--take: expected one of" in refusal([*argv, "--take", "netb"], capsys)


@pytest.mark.parametrize("kind", ["safetensors", "pkl"])
def test_our_files_go_out_and_come_back(
    kind: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {k: v.half() if v.dim() == 4 else v for k, v in weights().items()}
    meta = {"version": "9", "classes": list(CLASSES), "palette": [[i, 0, 9] for i in range(5)], "method": "BPKD",
            "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375],
            "input_format": "RGB"}  # fmt: skip
    src = saved(tmp_path / "ours.pth", {"model": state, "bpkd": meta})
    out, back = tmp_path / f"out.{kind}", tmp_path / "back.pth"
    assert run("convert", [str(src), str(out), "--config-file", config]) == 0
    assert run("convert", [str(out), str(back), "--config-file", config]) == 0
    assert "WARNING" not in capsys.readouterr().out
    got = torch.load(back, weights_only=True)
    assert {k: got["bpkd"][k] for k in meta} == meta
    assert all(torch.equal(got["model"][k], v) and got["model"][k].dtype == v.dtype for k, v in state.items())
    info = load_strict(build_student(tiny_cfg()), str(out))
    assert info.classes == CLASSES


def test_shared_and_empty_weights_go_into_safetensors(tmp_path: Path) -> None:
    from bpkd.convert.tensorfile import read_safetensors, write_safetensors

    base = torch.arange(12.0).view(3, 4)
    state = {"a": base, "b": base[1:], "t": base.t(), "none": torch.zeros(0, 3), "one": torch.tensor(4),
             "bf": torch.ones(2, dtype=torch.bfloat16)}  # fmt: skip
    write_safetensors(state, {"part": "network"}, tmp_path / "w.safetensors")
    got = read_safetensors(str(tmp_path / "w.safetensors"))
    assert got["bpkd"] == {"part": "network"}
    assert all(torch.equal(got["model"][k], v) for k, v in state.items())


def test_detectron2_reads_our_pkl(config: str, tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    state = weights()
    src = saved(tmp_path / "ours.pth", {"model": state, "bpkd": {"classes": list(CLASSES)}})
    assert run("convert", [str(src), str(tmp_path / "d2.pkl"), "--config-file", config]) == 0
    model = build_student(tiny_cfg())
    DetectionCheckpointer(model).load(str(tmp_path / "d2.pkl"))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_targets_of_other_formats_are_refused(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = saved(tmp_path / "w.pth", weights())
    for name, said in (("o.onnx", "bpkd export writes .onnx"), ("o.npz", "ends in .pth, .safetensors or .pkl")):
        assert said in refusal([str(src), str(tmp_path / name), "--config-file", config], capsys)
    argv = [str(src), str(tmp_path / "o.safetensors"), "--config-file", config, "--to", "mmseg"]
    assert "expected a .pth file" in refusal(argv, capsys)


def torchvision_resnet() -> State:
    torch.manual_seed(1)
    return torchvision.models.resnet18().state_dict()


BACKBONES: dict[str, Maker] = {
    "timm's safetensors": lambda d, s: tensors(d / "model.safetensors", s),
    "lightning": lambda d, s: saved(d / "w.ckpt", {"state_dict": under("model.", s), "pytorch-lightning_version": "2"}),
    "backbone alone": lambda d, s: saved(
        d / "w.pth", under("backbone.", {k: v for k, v in s.items() if k[:2] != "fc"})
    ),
    "module.model.backbone": lambda d, s: saved(
        d / "w.pth", under("module.model.backbone.", {k: v for k, v in s.items() if k[:2] != "fc"})
    ),
    "detectron2's R-18.pkl": lambda d, s: pickled(
        d / "R-18.pkl", {"model": arrays(detectron2(s)), "__author__": "torchvision", "matching_heuristics": True}
    ),
}


def detectron2(state: State) -> State:
    """As Detectron2's tools/convert-torchvision-to-d2.py renames."""
    out = {}
    for key, value in state.items():
        name = key if "layer" in key else f"stem.{key}"
        for i in range(1, 5):
            name = name.replace(f"layer{i}", f"res{i + 1}").replace(f"bn{i}", f"conv{i}.norm")
        out[name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = value
    return {k: v for k, v in out.items() if "num_batches" not in k}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_of_other_projects(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = torchvision_resnet()
    model = build_student(tiny_cfg("MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 1.0, "MODEL.RESNET_V1C.DEEP_STEM", False))
    path = BACKBONES[name](tmp_path, state)
    load_backbone(model.backbone, str(path), network=model)
    assert torch.equal(model.backbone.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    assert "the weights expect" not in caplog.text
    model.input_format = "BGR"
    if "R-18" in name:
        with pytest.raises(ValueError, match=r"expect RGB.*by its author, torchvision.*INPUT.FORMAT BGR"):
            load_backbone(model.backbone, str(path), network=model)
    else:  # known of the project, not stated by the file
        load_backbone(model.backbone, str(path), network=model)
        assert "as usual for" in caplog.text


def test_without_the_package_one_line_says_what_to_install(
    tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tensors(tmp_path / "w.safetensors", weights())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    line = refusal([str(path), str(tmp_path / "dst.pth"), "--config-file", config], capsys)
    assert "pip install safetensors" in line


def test_cut_and_changed_files_are_refused_and_raise_nothing_else(tmp_path: Path) -> None:
    state = {"backbone.w": torch.randn(4, 3), "decode_head.n": torch.tensor(3)}
    np.savez(tmp_path / "s.npz", **arrays(state))
    files = [
        saved(tmp_path / "s.pth", {"state_dict": state, "meta": {"x": np.arange(3)}}),
        saved(tmp_path / "old.pth", {"state_dict": state}, _use_new_zipfile_serialization=False),
        tensors(tmp_path / "s.safetensors", state),
        pickled(tmp_path / "s.pkl", {"model": arrays(state), "__author__": "me"}),
        pickled(tmp_path / "t.pkl", state, 4),
        tmp_path / "s.npz",
    ]
    rng, messages = np.random.default_rng(0), []
    for i in range(300):
        source = files[i % len(files)]
        data = bytearray(source.read_bytes())
        if i % 3:
            data[rng.integers(len(data))] ^= rng.integers(1, 256)
        else:
            data = data[: rng.integers(len(data))]
        changed = tmp_path / f"changed{source.suffix}"
        changed.write_bytes(bytes(data))
        try:
            read_checkpoint(str(changed))
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert not [text for text in messages if f"{tmp_path}/changed." not in text]
