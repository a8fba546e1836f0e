"""A recorded teacher: the same images, labels and logits again, or a plain refusal."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from bpkd.data import build_train_loader
from bpkd.engine import DistillationTrainer, load_config
from bpkd.engine.cache_teacher import record_teacher
from bpkd.modeling.teachers import build as teachers
from bpkd.modeling.teachers.cached import FORMATS, INDEX, LOGITS, CachedTeacher, decode, encode, recorded_for
from tests.helpers.engine_runs import largest_difference, losses, stop_after, train, weights

TOOLS = str(Path(__file__).resolve().parents[2] / "tools")
if TOOLS not in sys.path:
    sys.path.append(TOOLS)
import cache_teacher as tool  # noqa: E402

CPU = torch.device("cpu")
BF16 = ("TEACHER.AMP", "bf16")


def config(root: Path, *opts: str) -> CfgNode:
    return load_config(str(root / "pair.yaml"), list(opts))


def cached(root: Path, path: Path, *opts: str) -> CachedTeacher:
    cfg = config(root, "TEACHER.CACHE", str(path), *opts)
    teacher = teachers.build_teachers(cfg)
    assert isinstance(teacher, CachedTeacher)
    return teacher


@pytest.fixture(scope="module")
def recorded(tiny: Path) -> Path:
    record_teacher(config(tiny), tiny / "recorded")
    return tiny / "recorded"


def logits(seed: int = 0) -> torch.Tensor:
    scale = torch.tensor([1e-3, 1.0, 30.0, 1e4])[:, None, None]
    values = torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(seed)) * scale - 3 * scale
    values[0, 1] = -2.5  # nothing to tell apart
    values[1, 2, 0, 0] = 0.0
    return values


def test_error_stays_within_the_stated_bound() -> None:
    for seed in range(20):
        x = logits(seed)
        half, levels = (decode(encode(x, kind), kind, x.shape[1:]) for kind in FORMATS)
        assert ((half - x).abs() <= x.abs() * 2**-8).all()
        reach = x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True)
        rounding = x.abs().amax((2, 3), keepdim=True) * 2**-22  # of the float32 arithmetic itself
        assert ((levels - x).abs() <= reach / 510 + rounding).all()
        assert torch.equal(levels[0, 1], x[0, 1])
        assert torch.equal(decode(encode(half, "bf16"), "bf16", x.shape[1:]), half)  # computed in bf16: no error
    assert encode(x, "bf16").shape == (3, 2 * 4 * 35)
    assert encode(x, "uint8").shape == (3, 4 * 35 + 8 * 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    x = logits()
    x[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="expected finite logits"):
        encode(x, "uint8")


def test_the_stream_comes_again(tiny: Path) -> None:
    batches = list(islice(build_train_loader(config(tiny, "DATALOADER.REPEAT", "6")), 3))  # of 4 images
    positions = [item["position"] for batch in batches for item in batch]
    assert positions == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    items = [item for batch in batches for item in batch]
    for first, again in zip(items[:6], items[6:], strict=True):
        assert torch.equal(first["image"], again["image"])
        assert torch.equal(first["sem_seg"], again["sem_seg"])
    plain = [item for batch in islice(build_train_loader(config(tiny)), 2) for item in batch]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(items[:6], plain, strict=False))
    with pytest.raises(ValueError, match="DATALOADER.REPEAT: expected a whole number of at least 0, got -1"):
        config(tiny, "DATALOADER.REPEAT", "-1")


def test_training_from_a_recording_equals_training_with_the_teacher(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A teacher in bf16 is stored without loss: the same weights to the last bit, and no teacher is loaded."""
    record_teacher(config(tiny, *BF16), tmp_path / "recorded", kind="bf16")
    train(tiny / "pair.yaml", tmp_path / "live", *BF16)
    monkeypatch.setattr(teachers, "build_teacher", lambda *_: pytest.fail("a teacher was loaded"))
    train(tiny / "pair.yaml", tmp_path / "read", *BF16, "TEACHER.CACHE", str(tmp_path / "recorded"))
    assert losses(tmp_path / "read") == losses(tmp_path / "live")
    assert largest_difference(weights(tmp_path / "read"), weights(tmp_path / "live")) == 0.0


def test_eight_bits_change_the_losses_little(tiny: Path, tmp_path: Path, recorded: Path) -> None:
    train(tiny / "pair.yaml", tmp_path / "live")
    train(tiny / "pair.yaml", tmp_path / "read", "TEACHER.CACHE", str(recorded))
    live, read = losses(tmp_path / "live"), losses(tmp_path / "read")
    assert live != read
    for want, got in zip(live, read, strict=True):
        assert got == pytest.approx(want, rel=1e-2)


def test_resume_reads_on_where_it_was(tiny: Path, tmp_path: Path, recorded: Path) -> None:
    opts = ("TEACHER.CACHE", str(recorded))
    train(tiny / "pair.yaml", tmp_path / "whole", *opts)
    (tmp_path / "parts").mkdir()
    first = DistillationTrainer(config(tiny, "OUTPUT_DIR", str(tmp_path / "parts"), *opts))
    first.resume_or_load(resume=False)
    first.after_step = stop_after(first, 2)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    train(tiny / "pair.yaml", tmp_path / "parts", *opts, resume=True)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "parts")) == 0.0


def test_another_batch_size_reads_the_same_samples(tiny: Path, recorded: Path) -> None:
    cfg = config(tiny, "SOLVER.IMS_PER_BATCH", "2", "SOLVER.ACCUMULATE", "2")
    teacher = cached(tiny, recorded, "SOLVER.IMS_PER_BATCH", "2", "SOLVER.ACCUMULATE", "2")
    live = teachers.build_teachers(config(tiny))
    for batch in islice(build_train_loader(cfg), 8):
        want, got = live(batch, (48, 48), CPU).logits, teacher(batch, (48, 48), CPU).logits
        reach = want.amax((2, 3)) - want.amin((2, 3))
        assert ((got - want).abs().amax((2, 3)) <= reach / 510 + 1e-5).all()


def test_a_recording_goes_on_and_grows(tiny: Path, tmp_path: Path, recorded: Path) -> None:
    cfg, path = config(tiny), tmp_path / "parts"
    assert record_teacher(cfg, path, samples=5).index["count"] == 8
    whole = (recorded / LOGITS).read_bytes()
    (path / LOGITS).write_bytes((path / LOGITS).read_bytes() + b"broken off")
    assert record_teacher(cfg, path).index["count"] == 16
    assert (path / LOGITS).read_bytes() == whole
    stamp = (path / LOGITS).stat().st_mtime_ns
    assert record_teacher(cfg, path, samples=4).index["count"] == 16
    assert (path / LOGITS).stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="it holds uint8, got format 'bf16'"):
        record_teacher(cfg, path, kind="bf16")
    with pytest.raises(ValueError, match="format: expected one of bf16, uint8, got 'fp8'"):
        record_teacher(cfg, path, kind="fp8")


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        (("SEED", "3"), "SEED: 0 there, 3 here"),
        (("INPUT.CROP_SIZE", "[32, 48]"), r"INPUT.CROP_SIZE: \[48, 48\] there, \[32, 48\] here"),
        (("INPUT.FLIP_PROB", "0.0"), "INPUT.FLIP_PROB"),
        (BF16, "TEACHER.AMP: 'off' there, 'bf16' here"),
        (("TEACHER.OPTS", "['MODEL.SEM_SEG_HEAD.ALIGN_CORNERS', 'True']"), "TEACHER.CONFIG_FILE"),
    ],
)
def test_a_recording_of_another_config_is_refused(
    tiny: Path,
    recorded: Path,
    opts: tuple[str, ...],
    key: str,
) -> None:
    with pytest.raises(ValueError, match=f"TEACHER.CACHE .*it was recorded for others .*{key}.*Record it"):
        cached(tiny, recorded, *opts)


def test_a_recording_with_the_old_key_is_read(tiny: Path, tmp_path: Path, recorded: Path) -> None:
    index = json.loads((recorded / INDEX).read_text())
    index["of"]["TEACHER.FAST"] = index["of"].pop("TEACHER.OPTIMIZE")
    (tmp_path / INDEX).write_text(json.dumps(index))
    (tmp_path / LOGITS).write_bytes((recorded / LOGITS).read_bytes())
    assert cached(tiny, tmp_path).folder.index["count"] == 16


def test_a_recording_of_another_teacher_is_refused(tiny: Path, tmp_path: Path, recorded: Path) -> None:
    checkpoint = torch.load(tiny / "teacher" / "model_final.pth", weights_only=True)
    copied, changed = tmp_path / "copied.pth", tmp_path / "changed.pth"
    copied.write_bytes((tiny / "teacher" / "model_final.pth").read_bytes())
    cached(tiny, recorded, "TEACHER.WEIGHTS", str(copied))  # the same contents in another place
    next(iter(checkpoint["model"].values())).add_(1e-3)
    torch.save(checkpoint, changed)
    with pytest.raises(ValueError, match="TEACHER.WEIGHTS: '[0-9a-f]{16}' there"):
        cached(tiny, recorded, "TEACHER.WEIGHTS", str(changed))
    with pytest.raises(FileNotFoundError, match="TEACHER.WEIGHTS: expected a file, got 'nowhere.pth'"):
        cached(tiny, recorded, "TEACHER.WEIGHTS", "nowhere.pth")


def test_too_few_samples_are_refused_and_may_come_again(tiny: Path, recorded: Path) -> None:
    longer = ("SOLVER.MAX_ITER", "9")
    with pytest.raises(ValueError, match=r"expected 36 samples .* got 16. Record more .* DATALOADER.REPEAT 16"):
        cached(tiny, recorded, *longer)
    cached(tiny, recorded, *longer, "DATALOADER.REPEAT", "16")


def test_a_sample_that_has_changed_is_refused(tiny: Path, recorded: Path) -> None:
    teacher = cached(tiny, recorded)
    for key in ("image", "sem_seg"):
        batch = next(iter(build_train_loader(config(tiny))))
        teacher(batch, (48, 48), CPU)
        batch[2][key] = batch[2][key].clone()
        batch[2][key][..., 5, 5] ^= 1
        with pytest.raises(ValueError, match="sample 2 .* is not the one that was recorded"):
            teacher(batch, (48, 48), CPU)


def test_what_is_no_recording_is_refused(tiny: Path, tmp_path: Path, recorded: Path) -> None:
    with pytest.raises(FileNotFoundError, match="TEACHER.CACHE: expected a recorded folder, found no"):
        cached(tiny, tmp_path / "nowhere")
    of, index = recorded_for(config(tiny)), json.loads((recorded / INDEX).read_text())
    (tmp_path / LOGITS).write_bytes((recorded / LOGITS).read_bytes()[:-1])
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="logits.bin is shorter than index.json says"):
        CachedTeacher(tmp_path, of=of, samples=1)
    for text in ("{", "{}"):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(ValueError, match="it cannot be read"):
            CachedTeacher(tmp_path, of=of, samples=1)


def test_methods_that_need_features_are_refused(tiny: Path, tmp_path: Path, recorded: Path) -> None:
    with pytest.raises(ValueError, match="a recorded teacher .* has logits alone"):
        train(tiny / "pair.yaml", tmp_path, "TEACHER.CACHE", str(recorded), "DISTILL.METHOD", "IFVD")


def test_several_teachers_are_recorded_as_one_or_refused(tiny: Path, tmp_path: Path) -> None:
    entry = {"CONFIG_FILE": str(tiny / "teacher.yaml"), "WEIGHTS": str(tiny / "teacher" / "model_final.pth")}
    two = ("TEACHER.OTHERS", str([entry]))
    record_teacher(config(tiny, *two), tmp_path / "mean", samples=4)
    with pytest.raises(ValueError, match=r"TEACHER.OTHERS\[0\]"):
        cached(tiny, tmp_path / "mean", "SOLVER.MAX_ITER", "1")
    cached(tiny, tmp_path / "mean", "SOLVER.MAX_ITER", "1", *two)
    with pytest.raises(ValueError, match="TEACHER.COMBINE: expected probabilities"):
        record_teacher(config(tiny, *two, "TEACHER.COMBINE", "losses"), tmp_path / "losses")


def test_tool_says_what_it_recorded_or_why_not(
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = ["--config-file", str(tiny / "pair.yaml"), "--samples", "4"]
    assert tool.main([*start, str(tmp_path / "a"), "SOLVER.IMS_PER_BATCH", "2"]) == 0
    size = (tmp_path / "a" / LOGITS).stat().st_size
    assert f"{tmp_path / 'a'}: 4 samples of {size // 4} bytes" in capsys.readouterr().out
    assert tool.main([*start, str(tmp_path / "a"), "SEED", "5"]) == 2
    assert "it was recorded for others (SEED: 0 there, 5 here)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main([*start, "--samples", "-1", str(tmp_path / "b")])
