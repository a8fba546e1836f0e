"""Teachers that come as files."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from bpkd.export import student as student_export
from bpkd.export import to_exported_program
from bpkd.modeling import ExportedInfo, FrozenTeacher, build_student, build_teacher, load_exported
from tests.helpers.tiny_networks import CLASSES, TINY, batch, save_teacher, tiny_cfg
from tests.helpers.tools import export

ROOT = Path(__file__).parents[2]
WRAP = ("MODEL.META_ARCHITECTURE", "SemanticDistiller", "DISTILL.METHOD")
SIZE, CPU = (40, 48), torch.device("cpu")
OWN = TINY.replace("CROP_SIZE", "FORMAT: BGR, CROP_SIZE").replace(
    "DEVICE: cpu", "DEVICE: cpu\n  PIXEL_MEAN: [101.1, 102.0, 103.0]\n  PIXEL_STD: [51.0, 52.0, 54.7]"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BGR teacher with pixel statistics of its own: eager, as TorchScript, and as a program of one size."""
    root = tmp_path_factory.mktemp("exported")
    save_teacher(root, text=OWN)
    for name in ("t.ts", "t.pt2"):
        export(root / "teacher.yaml", root / "teacher.pth", root / name)
    return root


def eager(root: Path) -> list[str]:
    return ["TEACHER.CONFIG_FILE", str(root / "teacher.yaml"), "TEACHER.WEIGHTS", str(root / "teacher.pth")]


def exported(path: Path, *opts: Any) -> list[Any]:
    return ["TEACHER.EXPORTED", str(path), *opts]


def step(opts: list[Any], method: str, *more: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*opts, *WRAP, method, *more)).train()
    losses = model(batch(2))
    sum(v for k, v in losses.items() if k.startswith("loss_kd")).backward()
    return losses, {k: p.grad for k, p in model.student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["t.ts", "t.pt2"])
@pytest.mark.parametrize("method", ["KD", "CWD", "BPKD"])
def test_loss_and_gradient_are_the_eager_teachers(files: Path, name: str, method: str) -> None:
    (want, gradients), (got, others) = (step(o, method) for o in (eager(files), exported(files / name)))
    assert want.keys() == got.keys()
    for key, value in want.items():
        torch.testing.assert_close(got[key], value, rtol=1e-5, atol=1e-7)
    scale = max(float(g.abs().max()) for g in gradients.values())
    assert scale > 0
    assert max(float((g - others[k]).abs().max()) for k, g in gradients.items()) < 1e-5 * scale


@pytest.mark.parametrize("name", ["t.ts", "t.pt2"])
def test_file_states_what_the_network_is(files: Path, name: str) -> None:
    model, info = load_exported(str(files / name), device=CPU, size=SIZE)
    assert (info.num_classes, info.input_format, info.classes) == (5, "BGR", CLASSES)
    assert info.pixel_mean == pytest.approx((101.1, 102.0, 103.0))
    assert info.pixel_std == pytest.approx((51.0, 52.0, 54.7))
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["t.ts", "t.pt2"])
def test_class_map_frozen_mode_and_amp_are_as_of_any_teacher(files: Path, name: str) -> None:
    three = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3]
    with pytest.raises(ValueError, match="got 5 and 3. Give TEACHER.CLASS_MAP"):
        build_teacher(tiny_cfg(*exported(files / name), *three))
    opts = [*three, "TEACHER.CLASS_MAP", [0, 1, 2, 2, -1]]
    one, other = (build_teacher(tiny_cfg(*o, *opts)) for o in (eager(files), exported(files / name)))
    want = one(batch(1), SIZE, CPU).logits
    got = other(batch(1), SIZE, CPU)
    torch.testing.assert_close(got.logits, want, rtol=1e-4, atol=1e-4)
    assert dict(got.features) == {}
    other.model.train()
    assert torch.equal(other(batch(1), SIZE, CPU).logits, got.logits)
    half = build_teacher(tiny_cfg(*exported(files / name), *opts, "TEACHER.AMP", "bf16"))(batch(1), SIZE, CPU).logits
    assert 0 < float((half - want).abs().max() / want.std()) < 0.2


def test_other_class_names_are_refused(files: Path, tmp_path: Path) -> None:
    save_teacher(tmp_path, classes=("sky", "road", "bush", "car", "pole"))
    path = export(tmp_path / "teacher.yaml", tmp_path / "teacher.pth", tmp_path / "bush.ts")
    with pytest.raises(ValueError, match="2: 'bush' / 'tree'"):
        build_teacher(tiny_cfg(*exported(path)))


def test_another_size_than_the_files_names_both(files: Path) -> None:
    other = ["INPUT.CROP_SIZE", [64, 80]]
    with pytest.raises(ValueError, match=r"images of 1..4096 x 3 x 40 x 48 .*, got 1 x 3 x 64 x 80"):
        build_teacher(tiny_cfg(*exported(files / "t.pt2"), *other))
    check_size(files, "t.ts", other)


@pytest.mark.skipif(TorchVersion(torch.__version__) < "2.14", reason="torch.export of any size: tried from 2.14 on")
def test_a_program_of_any_size(files: Path) -> None:
    export(files / "teacher.yaml", files / "teacher.pth", files / "any.pt2", "--any-size", size=(64, 80))
    check_size(files, "any.pt2", ["INPUT.CROP_SIZE", [64, 80]])
    with pytest.raises(ValueError, match=r"64..4096 x 64..4096 .*, got 1 x 3 x 24 x 80"):
        build_teacher(tiny_cfg(*exported(files / "any.pt2"), "INPUT.CROP_SIZE", [24, 80]))


def check_size(files: Path, name: str, opts: list[Any]) -> None:
    """The file's answer to 64 x 80 pixels is the eager teacher's."""
    want = build_teacher(tiny_cfg(*eager(files)))(batch(1, (64, 80)), (64, 80), CPU).logits
    got = build_teacher(tiny_cfg(*exported(files / name), *opts))(batch(1, (64, 80)), (64, 80), CPU).logits
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "opts"),
    [("SKDS", []), ("IFVD", []), ("CIRKD", []), ("KD+CIRKD", []), ("CWD", ["DISTILL.CWD.TAP", "layer4"])],
)
def test_features_are_refused_with_the_reason(files: Path, method: str, opts: list[str]) -> None:
    with pytest.raises(ValueError, match="a teacher of TEACHER.EXPORTED gives logits alone"):
        build_model(tiny_cfg(*exported(files / "t.ts"), *WRAP, method, *opts))


# Files from elsewhere


class Foreign(nn.Module):
    def __init__(self, form: str, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.form, self.conv = form, nn.Conv2d(3, classes, 3, stride=4)

    def forward(self, image: Tensor) -> Any:
        scores = self.conv(image)
        if self.form == "tuple":
            return scores, image.mean()
        if self.form == "list":
            return [scores, scores * 2]
        if self.form == "dict":
            return {"out": scores, "aux": scores * 2}
        if self.form == "other dict":
            return {"logits": scores}
        if self.form == "labels":
            return scores.argmax(1)
        if self.form == "fixed":
            return self.conv(image.reshape(1, 3, 40, 48))
        return scores


def foreign(root: Path, form: str, kind: str) -> Path:
    path, example = root / f"{form}.{kind}", torch.zeros(1 if form == "fixed" else 2, 3, *SIZE)
    if kind == "pt":
        torch.jit.save(torch.jit.trace(Foreign(form), example, strict=False), path)
    else:
        torch.export.save(torch.export.export(Foreign(form), (example,)), path)
    return path


@pytest.mark.parametrize("kind", ["pt", "pt2"])
@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "dict"])
def test_foreign_files_with_a_config_that_describes_them(tmp_path: Path, files: Path, form: str, kind: str) -> None:
    path = foreign(tmp_path, form, kind)
    config = ["TEACHER.CONFIG_FILE", str(files / "teacher.yaml")]
    with pytest.raises(ValueError, match="does not say its classes.*Give a TEACHER.CONFIG_FILE"):
        build_teacher(tiny_cfg(*exported(path)))
    teacher = build_teacher(tiny_cfg(*exported(path, *config)))
    items = batch(2)
    raw = torch.stack([item["image"].flip(0).float() for item in items])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([101.1, 102.0, 103.0], [51.0, 52.0, 54.7]))
    want = Foreign("tensor")((raw - mean) / std)
    torch.testing.assert_close(teacher(items, SIZE, CPU).logits, want.detach(), rtol=1e-4, atol=1e-5)
    assert step(exported(path, *config), "KD")[0]["loss_kd_pixel"] > 0


@pytest.mark.parametrize("kind", ["pt", "pt2"])
@pytest.mark.parametrize(
    ("form", "message"), [("other dict", "got a dict with logits"), ("labels", r"got a tensor of \d x 10 x 12")]
)
def test_other_outputs_are_refused(tmp_path: Path, files: Path, form: str, message: str, kind: str) -> None:
    opts = exported(foreign(tmp_path, form, kind), "TEACHER.CONFIG_FILE", str(files / "teacher.yaml"))
    with pytest.raises(ValueError, match=message):
        build_teacher(tiny_cfg(*opts))


def test_a_script_of_one_size_says_what_it_was_asked(tmp_path: Path, files: Path) -> None:
    opts = exported(foreign(tmp_path, "fixed", "pt"), "TEACHER.CONFIG_FILE", str(files / "teacher.yaml"))
    with pytest.raises(ValueError, match="fails on images of 1 x 3 x 64 x 80: .*40, 48"):
        build_teacher(tiny_cfg(*opts, "INPUT.CROP_SIZE", [64, 80]))


def test_frozen_and_scripted_modules_load(tmp_path: Path, files: Path) -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 5, 3), nn.Dropout(0.5), nn.BatchNorm2d(5)))
    torch.jit.save(scripted, tmp_path / "training.pt")
    torch.jit.save(torch.jit.freeze(scripted.eval()), tmp_path / "frozen.pt")
    answers = []
    for name in ("training.pt", "frozen.pt"):
        opts = exported(tmp_path / name, "TEACHER.CONFIG_FILE", str(files / "teacher.yaml"))
        teacher = build_teacher(tiny_cfg(*opts))
        answers += [teacher(batch(1), SIZE, CPU).logits for _ in range(2)]
    for other in answers[1:]:
        torch.testing.assert_close(other, answers[0])


def test_what_is_no_exported_file_is_refused(tmp_path: Path, files: Path) -> None:
    with pytest.raises(FileNotFoundError, match="TEACHER.EXPORTED: expected a file, got 'nowhere.ts'"):
        build_teacher(tiny_cfg(*exported(Path("nowhere.ts"))))
    with pytest.raises(ValueError, match=r"ends in .ts, .pt, .pt2, got .*teacher.pth"):
        build_teacher(tiny_cfg(*exported(files / "teacher.pth")))
    for name in ("a.pt", "a.pt2"):
        (tmp_path / name).write_bytes((files / "teacher.pth").read_bytes())
        with pytest.raises(ValueError, match="cannot be loaded.*A checkpoint is given as TEACHER.WEIGHTS"):
            build_teacher(tiny_cfg(*exported(tmp_path / name)))
    with pytest.raises(ValueError, match="expected WEIGHTS or EXPORTED, got both"):
        build_teacher(tiny_cfg(*eager(files), *exported(files / "t.ts")))
    with pytest.raises(ValueError, match="TEACHER.OPTS: expected a CONFIG_FILE"):
        build_teacher(tiny_cfg(*exported(files / "t.ts", "TEACHER.OPTS", ["INPUT.FORMAT", "BGR"])))


def test_file_and_config_must_agree(files: Path) -> None:
    config = ["TEACHER.CONFIG_FILE", str(files / "teacher.yaml")]
    assert isinstance(build_teacher(tiny_cfg(*exported(files / "t.ts", *config))), FrozenTeacher)
    opts = ["TEACHER.OPTS", ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_STD", [1.0, 1.0, 1.0]]]
    with pytest.raises(ValueError, match="the file and TEACHER.CONFIG_FILE differ in input_format, pixel_std"):
        build_teacher(tiny_cfg(*exported(files / "t.ts", *config, *opts)))


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    for text in ("[", "{}", json.dumps({"num_classes": 5})):
        torch.jit.save(torch.jit.trace(Foreign("tensor"), torch.zeros(1, 3, *SIZE)), tmp_path / "a.pt",
                       _extra_files={"bpkd.json": text})  # fmt: skip
        with pytest.raises(ValueError, match="its bpkd.json cannot be read"):
            build_teacher(tiny_cfg(*exported(tmp_path / "a.pt")))
    info = ExportedInfo.of_model(build_student(tiny_cfg()), CLASSES)
    assert ExportedInfo.parse(info.dump(), "x") == info


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


# Older torch's files hold them by other names.
OLD_PARTS = {"serialized_example_inputs.pt": "sample_inputs", "serialized_state_dict.pt": "weights_config"}


@pytest.mark.parametrize("replaced", ["sample_inputs", "weights_config", "aotinductor"])
def test_loading_executes_nothing(files: Path, tmp_path: Path, replaced: str) -> None:
    """A program whose pickled parts carry code, or that brings compiled code, is refused before that runs."""
    marker, path, buffer = tmp_path / "executed", tmp_path / "evil.pt2", io.BytesIO()
    torch.save((Payload(marker),), buffer)
    touched = 0
    with zipfile.ZipFile(files / "t.pt2") as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if replaced == OLD_PARTS.get(item.filename):
                data, touched = buffer.getvalue(), touched + 1
            if replaced == "sample_inputs" and "/sample_inputs/" in item.filename:
                data, touched = buffer.getvalue(), touched + 1
            if replaced == "weights_config" and item.filename.endswith("weights_config.json"):
                data, touched = data.replace(b'"use_pickle": false', b'"use_pickle": true'), touched + 1
            if replaced == "weights_config" and "/weights/weight_" in item.filename:
                data = buffer.getvalue()
            target.writestr(item, data)
        if replaced == "aotinductor":
            root = source.namelist()[0].split("/")[0]
            target.writestr(f"{root}/data/aotinductor/model/x.so", b"")
            touched = 1
    assert touched
    with pytest.raises(ValueError, match="cannot be loaded"):
        build_teacher(tiny_cfg(*exported(path)))
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload itself works


# Writing


def test_a_program_that_computes_something_else_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_student(tiny_cfg())
    load = torch.export.load

    class Wrong:
        def __init__(self, path: str) -> None:
            self.run = load(path).module()

        def module(self) -> Any:
            return lambda image: 1.01 * self.run(image)

    monkeypatch.setattr(student_export.torch.export, "load", Wrong)
    with pytest.raises(ValueError, match="differ from the network's by"):
        to_exported_program(model, str(tmp_path / "net.pt2"), SIZE)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isa = build_student(tiny_cfg("MODEL.SEM_SEG_HEAD.NAME", "ISAHead"))
    with pytest.raises(ValueError, match="does not support 'export_any_size'"):
        to_exported_program(isa, str(tmp_path / "isa.pt2"), (64, 64), any_size=True)
    model = build_student(tiny_cfg())
    monkeypatch.setattr(model, "predict", lambda images: print if float(images.sum()) > 0 else None)
    with pytest.raises(ValueError, match="SemanticSegmentor: torch.export cannot write this network"):
        to_exported_program(model, str(tmp_path / "net.pt2"), (64, 64))
    assert not list(tmp_path.iterdir())
