"""A teacher that is made fast says what it said before, and records no graph whatever its code does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bpkd.modeling import DenseModel, build_student, build_teacher
from bpkd.modeling.precision import has_instructions
from bpkd.modeling.teachers import acceleration as module
from bpkd.modeling.teachers.acceleration import (
    OPTIMIZATIONS,
    Optimizations,
    fold_batch_norm,
    full_float32,
    optimize_for_inference,
    store_as,
)
from bpkd.modeling.teachers.frozen import FrozenTeacher
from bpkd.structures import SegOutput
from tests.helpers.tiny_networks import TINY, TORCHVISION, batch, save_teacher, tiny_cfg

SIZE, CPU = (40, 48), torch.device("cpu")
NETWORKS = {
    "resnet": (),
    "bottleneck": ("MODEL.RESNET_V1C.DEPTH", 50),
    "frozen": ("MODEL.RESNET_V1C.NORM", "FrozenBN", "MODEL.SEM_SEG_HEAD.NORM", "SyncBN"),
    "hrnet": ("MODEL.BACKBONE.NAME", "build_hrnet_backbone", "MODEL.HRNET.VARIANT", "w18s",
              "MODEL.HRNET.WIDTH_MULTIPLIER", 0.25, "MODEL.SEM_SEG_HEAD.NAME", "FCNHead",
              "MODEL.SEM_SEG_HEAD.IN_FEATURES", [f"branch{b}" for b in (1, 2, 3, 4)],
              "MODEL.AUX_HEAD.LOSS_WEIGHT", 0.0),
}  # fmt: skip


def with_random_weights(model: nn.Module) -> DenseModel:
    """Gives a model random weights and statistics, none of them 0 or 1, and freezes it in evaluation mode."""
    torch.manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif key.endswith(("running_mean", "bias")):
            value.normal_(std=0.2)
        elif value.dim() == 1:
            value.uniform_(0.5, 1.5)
        elif "conv_seg" in key:
            value.normal_(std=0.5)
    return model.eval().requires_grad_(False)


def tiny(*opts: object, text: str = TINY) -> DenseModel:
    model = build_student(tiny_cfg(*opts, text=text))
    model.drop_auxiliary()
    return with_random_weights(model)


def logits_difference(model: DenseModel, reference: DenseModel, images: Tensor) -> float:
    with torch.no_grad():
        want = reference.predict(images).logits
        return float((model.scores(images).logits - want).abs().max() / want.std())


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_norm_is_folded_and_the_scores_stay(name: str) -> None:
    plain = tiny(*NETWORKS[name])
    folded = copy.deepcopy(plain)
    norms = sum("running_var" in key for key in plain.state_dict())
    assert fold_batch_norm(folded, images(1)) == norms > 10
    assert not any("running_var" in key for key in folded.state_dict())
    assert logits_difference(folded, plain, images()) < 1e-4


def test_torchvisions_network_is_folded_too() -> None:
    plain = tiny(text=TORCHVISION)
    folded = copy.deepcopy(plain)
    assert fold_batch_norm(folded, images(1)) == sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules()) > 30
    assert logits_difference(folded, plain, images()) < 1e-4


class Tangled(DenseModel):
    """Convolutions and norms that look like pairs and are none, and one true pair."""

    def __init__(self, kind: str) -> None:
        super().__init__(num_classes=4, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
        self.kind, self.conv, self.norm = kind, nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.other, self.last, self.end = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def predict(self, images: Tensor) -> SegOutput:
        x = self.conv(images)
        if self.kind == "between":
            x = self.norm(torch.relu_(x))
        elif self.kind == "two norms":
            x = self.norm(x) + self.other(x)
        elif self.kind == "shared norm":
            x = self.norm(x) + self.norm(self.last(x))
        else:
            x = self.norm(x) + x  # "used elsewhere": seen only in the scores
        return SegOutput(self.end(self.last(x)))


@pytest.mark.parametrize("kind", ["between", "two norms", "shared norm", "used elsewhere"])
def test_what_is_no_pair_is_left_alone(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = with_random_weights(Tangled(kind))
    changed = copy.deepcopy(plain)
    with caplog.at_level("WARNING", "bpkd"):
        count = fold_batch_norm(changed, images(1))
    # The scores tell that a pair is none: then nothing is folded, the true pair neither.
    assert count == {"between": 1, "two norms": 1, "shared norm": 0, "used elsewhere": 0}[kind]
    assert ("are not folded" in caplog.text) == (kind == "used elsewhere")
    assert isinstance(changed.norm, nn.BatchNorm2d)
    assert logits_difference(changed, plain, images()) < 1e-5
    if not count:
        assert all(torch.equal(a, b) for a, b in zip(changed.parameters(), plain.parameters(), strict=True))


def test_stored_weights_give_autocasts_bits() -> None:
    plain = tiny()
    stored = copy.deepcopy(plain)
    store_as(stored, torch.bfloat16)
    assert {p.dtype for n, p in stored.named_parameters() if "conv" in n} == {torch.bfloat16}
    assert {p.dtype for n, p in stored.named_parameters() if ".bn" in n} == {torch.float32}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        assert torch.equal(stored.predict(images()).logits, plain.predict(images()).logits)


@pytest.mark.parametrize(
    ("fast", "amp", "limit"),
    [("fold", "off", 1e-4), ("channels_last", "off", 1e-4), ("fold+channels_last", "off", 1e-4),
     ("fold+channels_last", "bf16", 0.2), ("auto", "off", 0.2)],
)  # fmt: skip
def test_a_fast_teacher_says_what_a_plain_one_says(tmp_path: Path, fast: str, amp: str, limit: float) -> None:
    opts = save_teacher(tmp_path)
    plain, quick = (
        build_teacher(tiny_cfg(*opts, *more)) for more in ((), ("TEACHER.OPTIMIZE", fast, "TEACHER.AMP", amp))
    )
    items = batch(2)
    want, got = plain(items, SIZE, CPU), quick(items, SIZE, CPU)
    assert got.logits.dtype == torch.float32
    assert float((got.logits - want.logits).abs().max() / want.logits.std()) < limit
    assert got.features.keys() == want.features.keys()
    half = has_instructions("bf16", CPU) if fast == "auto" else amp == "bf16"
    assert quick.amp == ("bf16" if half else "off")
    assert quick.model.images(items, SIZE).is_contiguous(memory_format=torch.channels_last) == (fast != "fold")


@pytest.mark.slow
def test_a_compiled_teacher_says_what_a_plain_one_says(tmp_path: Path) -> None:
    opts = save_teacher(tmp_path)
    plain, quick = (
        build_teacher(tiny_cfg(*opts, "TEACHER.OPTIMIZE", f)) for f in ("off", "fold+channels_last+compile")
    )
    want, got = (t(batch(2), SIZE, CPU).logits for t in (plain, quick))
    assert float((got - want).abs().max() / want.std()) < 1e-4


def test_auto_takes_what_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, amp in ((True, "bf16"), (False, "off")):
        monkeypatch.setattr(module, "has_instructions", lambda *_, has=has: has)
        assert Optimizations.choose("auto", "off", CPU) == Optimizations(("fold", "channels_last"), amp)
        assert Optimizations.choose("auto", "fp16", CPU).amp == "fp16"
        assert Optimizations.choose("auto", "off", CPU, exported=True) == Optimizations((), amp)
    assert Optimizations.choose("off", "off", CPU) == Optimizations()
    assert str(Optimizations.choose("fold", "bf16", CPU)) == "fold+bf16"


@pytest.mark.parametrize(
    ("fast", "exported", "message"),
    [
        ("quick", False, "TEACHER.OPTIMIZE: expected off, auto, or some of fold, channels_last.*got 'quick'"),
        ("fold+fold", False, "TEACHER.OPTIMIZE: expected"),
        ("graphs", False, "'graphs' needs a CUDA device, got MODEL.DEVICE cpu"),
        ("fold+stream", False, "'stream' needs a CUDA device"),
        ("fold", True, "a file runs as it was written"),
    ],
)
def test_what_cannot_be_is_refused(fast: str, exported: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Optimizations.choose(fast, "off", CPU, exported=exported)


def test_graphs_go_with_neither_compile_nor_stream() -> None:
    for other in ("compile", "stream"):
        with pytest.raises(ValueError, match="expected graphs without compile"):
            Optimizations.choose(f"graphs+{other}", "off", torch.device("cuda"))
    assert set(Optimizations.choose("fold+channels_last+graphs", "off", torch.device("cuda")).names) <= set(
        OPTIMIZATIONS
    )


class Recording(DenseModel):
    """A network whose own code switches the recording of gradients on."""

    def __init__(self) -> None:
        super().__init__(num_classes=4, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
        self.conv = nn.Conv2d(3, 4, 1)

    def predict(self, images: Tensor) -> SegOutput:
        with torch.enable_grad():
            x = self.conv(images)
            return SegOutput(2 * x, None, {"decode": x})


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_teacher_records_no_graph_whatever_its_code_does(amp: str) -> None:
    teacher = FrozenTeacher(Recording(), amp=amp)
    teacher.model.requires_grad_(True)  # whoever does this
    with torch.enable_grad():
        output = teacher(batch(1), SIZE, CPU)
    student = torch.randn(output.logits.shape, requires_grad=True)
    for tensor in (output.logits, *output.features.values()):
        assert tensor.grad_fn is None
        assert not tensor.requires_grad
        assert not tensor.is_inference()  # the loss's graph may hold it
    (student * output.logits).sum().backward()
    assert torch.equal(student.grad, output.logits)


def test_features_that_nobody_compares_are_not_kept(tmp_path: Path) -> None:
    teacher = build_teacher(tiny_cfg(*save_teacher(tmp_path)))
    asked = teacher.submit(batch(1), SIZE, CPU, taps=frozenset({"decode", "logits"})).result()
    assert set(asked.features) == {"decode"}
    assert "layer3" in teacher(batch(1), SIZE, CPU).features


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fast", ["fold+channels_last+stream", "fold+channels_last+graphs"])
def test_streams_and_graphs_change_nothing(tmp_path: Path, fast: str) -> None:
    opts = [*save_teacher(tmp_path), "MODEL.DEVICE", "cuda"]
    with full_float32():
        plain, quick = (build_teacher(tiny_cfg(*opts, "TEACHER.OPTIMIZE", f)) for f in ("off", fast))
        for seed in range(4):
            want, got = (t(batch(2, seed=seed), SIZE, torch.device("cuda")).logits for t in (plain, quick))
            assert float((got - want).abs().max() / want.std()) < 1e-2


def test_a_network_with_nothing_to_fold_is_left_as_it_is() -> None:
    model = with_random_weights(Recording())
    optimize_for_inference(model, Optimizations(("fold",)), lambda: images(1))
    assert logits_difference(model, model, images()) == 0
