"""The teacher: refused when it is not what it should be, frozen when it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog

from bpkd.convert import CheckpointError
from bpkd.modeling import build_teacher, build_teacher_model
from tests.helpers.tiny_networks import CLASSES, TINY, TORCHVISION, batch, save_teacher, tiny_cfg

SIZE, CPU = (40, 48), torch.device("cpu")


def test_no_weights_no_teacher(tmp_path: Path) -> None:
    opts = save_teacher(tmp_path)
    with pytest.raises(ValueError, match="TEACHER.WEIGHTS: expected a checkpoint, got nothing"):
        build_teacher(tiny_cfg(*opts, "TEACHER.WEIGHTS", ""))
    with pytest.raises(FileNotFoundError, match="TEACHER.WEIGHTS.*nowhere.pth"):
        build_teacher(tiny_cfg(*opts, "TEACHER.WEIGHTS", "nowhere.pth"))
    with pytest.raises(FileNotFoundError, match="TEACHER.CONFIG_FILE.*nowhere.yaml"):
        build_teacher(tiny_cfg(*opts, "TEACHER.CONFIG_FILE", "nowhere.yaml"))
    with pytest.raises(ValueError, match="TEACHER.CONFIG_FILE.*NO_SUCH_KEY"):
        build_teacher(tiny_cfg(*opts, "TEACHER.OPTS", ["MODEL.NO_SUCH_KEY", "1"]))


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    opts = save_teacher(tmp_path)
    data = torch.load(tmp_path / "teacher.pth")
    stem = data["model"].pop("backbone.stem.0.weight")
    torch.save(data, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match="missing: backbone.stem.0.weight"):
        build_teacher(tiny_cfg(*opts))
    data["model"].update({"backbone.stem.0.weight": stem, "backbone.stem.9.weight": stem})
    torch.save(data, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match="unexpected: backbone.stem.9.weight"):
        build_teacher(tiny_cfg(*opts))


def test_auxiliary_head_is_dropped_or_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opts = save_teacher(tmp_path)
    with caplog.at_level("INFO", "bpkd"):
        model = build_teacher_model(tiny_cfg(*opts))
    assert "left out" in caplog.text
    assert model.auxiliary_head is None
    data = torch.load(tmp_path / "teacher.pth")
    data["model"] = {k: v for k, v in data["model"].items() if "auxiliary" not in k}
    torch.save(data, tmp_path / "teacher.pth")
    build_teacher(tiny_cfg(*opts))


def test_another_class_list_is_refused(tmp_path: Path) -> None:
    opts = save_teacher(tmp_path, classes=("sky", "road", "bush", "car", "pole"))
    with pytest.raises(ValueError, match="2: 'bush' / 'tree'"):
        build_teacher(tiny_cfg(*opts))
    build_teacher(tiny_cfg(*opts, "TEACHER.CLASS_MAP", [0, 1, 2, 3, 4]))
    # The file states no classes: the data set of the teacher's config does.
    MetadataCatalog.get("tiny_other_train").set(stuff_classes=[*CLASSES[:4], "lamp"])
    opts = save_teacher(tmp_path, classes=None)
    other = ["DATASETS.TRAIN", "('tiny_other_train',)"]
    with pytest.raises(ValueError, match="4: 'lamp' / 'pole'"):
        build_teacher(tiny_cfg(*opts, "TEACHER.OPTS", other))


def test_another_number_of_classes_needs_a_map(tmp_path: Path) -> None:
    opts = save_teacher(tmp_path)
    three = ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3)
    with pytest.raises(ValueError, match="got 5 and 3. Give TEACHER.CLASS_MAP"):
        build_teacher(tiny_cfg(*opts, *three))
    for wrong in ([0, 1, 2], [0, 1, 2, 3, 0], [0, 0, 1, 1, 1]):
        with pytest.raises(ValueError, match="TEACHER.CLASS_MAP"):
            build_teacher(tiny_cfg(*opts, *three, "TEACHER.CLASS_MAP", wrong))
    teacher = build_teacher(tiny_cfg(*opts, *three, "TEACHER.CLASS_MAP", [0, 1, 2, 2, -1]))
    plain = build_teacher(tiny_cfg(*opts))
    items = batch(1)
    raw, mapped = (t(items, SIZE, CPU).logits for t in (plain, teacher))
    assert mapped.shape[1] == 3
    torch.testing.assert_close(mapped[:, :2], raw[:, :2])
    torch.testing.assert_close(mapped[:, 2], raw[:, 2:4].logsumexp(1))


def test_frozen_for_good(tmp_path: Path) -> None:
    teacher = build_teacher(tiny_cfg(*save_teacher(tmp_path)))
    assert not isinstance(teacher, torch.nn.Module)
    assert not any(p.requires_grad for p in teacher.model.parameters())
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    items = batch(2)
    first = teacher(items, SIZE, CPU)
    teacher.model.train()  # whoever does this
    second = teacher(items, SIZE, CPU)
    assert torch.equal(first.logits, second.logits)
    assert not teacher.model.training
    assert first.logits.requires_grad is False
    assert first.aux is None
    for key, value in teacher.model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_own_pixel_statistics_and_colour_order(tmp_path: Path) -> None:
    """The same images reach a BGR teacher with other statistics as it was trained to see them."""
    own = TINY.replace("CROP_SIZE", "FORMAT: BGR, CROP_SIZE").replace(
        "DEVICE: cpu", "DEVICE: cpu\n  PIXEL_MEAN: [1.0, 2.0, 3.0]\n  PIXEL_STD: [1.0, 2.0, 4.0]"
    )
    teacher = build_teacher(tiny_cfg(*save_teacher(tmp_path, text=own)))
    items = batch(1)
    images = teacher.model.images(items, SIZE)
    raw = items[0]["image"].float()
    expected = torch.stack([(raw[2] - 1) / 1, (raw[1] - 2) / 2, (raw[0] - 3) / 4])
    torch.testing.assert_close(images[0], expected)


def test_training_padding_is_the_students(tmp_path: Path) -> None:
    teacher = build_teacher(tiny_cfg(*save_teacher(tmp_path)))
    assert teacher(batch(1, (24, 24)), (64, 64), CPU).logits.shape[-2:] == (8, 8)


def test_amp_is_the_teachers_own(tmp_path: Path) -> None:
    opts = save_teacher(tmp_path)
    full, half = (build_teacher(tiny_cfg(*opts, "TEACHER.AMP", amp)) for amp in ("off", "bf16"))
    items = batch(1)
    reference = full(items, SIZE, CPU).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the student's does not reach it
        assert torch.equal(full(items, SIZE, CPU).logits, reference)
    rounded = half(items, SIZE, CPU).logits
    assert rounded.dtype == torch.float32
    difference = float((rounded - reference).abs().max() / reference.std())
    assert 0 < difference < 0.2
    with pytest.raises(ValueError, match="off, bf16, fp16, got 'int8'"):
        build_teacher(tiny_cfg(*opts, "TEACHER.AMP", "int8"))


def test_random_numbers_of_the_student_do_not_depend_on_the_teacher(tmp_path: Path) -> None:
    opts = save_teacher(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_teacher(tiny_cfg(*opts))
    assert torch.equal(torch.rand(4), expected)


def test_torchvision_network_as_teacher(tmp_path: Path) -> None:
    teacher = build_teacher(tiny_cfg(*save_teacher(tmp_path, text=TORCHVISION)))
    output = teacher(batch(1), SIZE, CPU)
    assert output.logits.shape == (1, 5, *SIZE)


def test_a_config_that_wraps_names_its_student(tmp_path: Path) -> None:
    """A distilled student can teach in turn, with the config it was distilled by."""
    wrapped = TINY.replace("DEVICE: cpu", "DEVICE: cpu\n  META_ARCHITECTURE: SemanticDistiller")
    model = build_teacher_model(tiny_cfg(*save_teacher(tmp_path, text=wrapped)))
    assert type(model).__name__ == "SemanticSegmentor"
