"""Preprocessing, losses and evaluation that all dense networks share, and networks from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

from bpkd.config import add_bpkd_config
from bpkd.convert import CheckpointError, load_strict
from bpkd.functional import upsampled_cross_entropy
from bpkd.modeling import DenseModel, ModuleSegmentor, build_student
from bpkd.modeling.preprocessing import normalised
from bpkd.structures import SegOutput
from tests.helpers.tiny_networks import TORCHVISION, batch, tiny_cfg

GOLDEN = Path(__file__).parents[1] / "golden" / "networks"


def test_loss_denominator_equals_openmmlabs() -> None:
    recipe = json.loads((GOLDEN / "recipe.json").read_text())["cross_entropy"]
    logits = torch.from_numpy(np.random.default_rng(10).standard_normal((2, 19, 8, 8)))
    labels = np.random.default_rng(11).integers(0, 19, (2, 8, 8))
    labels[np.random.default_rng(12).random((2, 8, 8)) < 0.25] = 255
    target = torch.from_numpy(labels)
    mean_all = upsampled_cross_entropy(logits, target)
    valid = upsampled_cross_entropy(logits, target, denominator="valid")
    assert float(mean_all) == pytest.approx(recipe["mmseg_default_mean_over_all_pixels"], rel=1e-6)
    assert float(valid) == pytest.approx(recipe["mean_over_valid_pixels"], rel=1e-6)


def test_normalisation_equals_openmmlabs() -> None:
    recipe = json.loads((GOLDEN / "recipe.json").read_text())["normalise"]
    image = np.random.default_rng(20).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    mean, std = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    stats = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    network = SimpleNamespace(**dict(zip(("pixel_mean", "pixel_std"), stats, strict=True)), input_format="RGB")
    network.source_format = "BGR"
    (got,) = normalised([{"image": torch.from_numpy(image).permute(2, 0, 1)}], network)
    np.testing.assert_allclose(got.numpy(), recipe["output_chw"], atol=1e-5)


@pytest.mark.parametrize("denominator", ["all", "valid"])
def test_nothing_to_learn_is_a_zero_with_gradient(denominator: str) -> None:
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    target = torch.full((1, 6, 6), 255)
    loss = upsampled_cross_entropy(logits, target, denominator=denominator)
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(logits.grad.abs().max()) == 0


def test_loss_is_float32_under_half_precision() -> None:
    logits = torch.randn(1, 4, 3, 3)
    target = torch.zeros(1, 6, 6, dtype=torch.int64)
    loss = upsampled_cross_entropy((logits * 1e4).bfloat16(), target)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_label_out_of_range_is_explained() -> None:
    model = ModuleSegmentor(network=nn.Identity(), num_classes=4, pixel_mean=[0.0], pixel_std=[1.0])
    with pytest.raises(ValueError, match=r"0\.\.3 or ignore_index 255, got \[7\]"):
        model.pixel_loss(torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 7], [255, 1]]]))


def test_training_pads_after_normalisation() -> None:
    model = build_student(tiny_cfg()).train()
    items = batch(2, (24, 32))
    images, target = model.preprocess(items)
    assert images.shape == (2, 3, 40, 48)
    assert target.shape == (2, 40, 48)
    assert float(images[:, :, 24:].abs().max()) == 0 == float(images[..., 32:].abs().max())
    assert target[:, 24:].eq(255).all()
    assert target[..., 32:].eq(255).all()
    pixel = (float(items[1]["image"][0, 5, 7]) - 123.675) / 58.395
    assert float(images[1, 0, 5, 7]) == pytest.approx(pixel, rel=1e-5)


def test_colour_order_of_loader_and_network_are_reconciled() -> None:
    rgb = build_student(tiny_cfg())
    bgr = build_student(
        tiny_cfg(
            *("INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]),
            *("MODEL.PIXEL_STD", [57.375, 57.12, 58.395]),
        )
    )
    items = batch(1)
    bgr.source_format = "RGB"
    torch.testing.assert_close(bgr.images(items).flip(1), rgb.images(items))
    turned = [{**items[0], "image": items[0]["image"].flip(0), "image_format": "BGR"}]
    torch.testing.assert_close(rgb.images(turned), rgb.images(items))
    with pytest.raises(ValueError, match="RGB, BGR, got 'YUV'"):
        build_student(tiny_cfg("INPUT.FORMAT", "YUV"))


def test_training_refuses_what_it_cannot_use() -> None:
    model = build_student(tiny_cfg()).train()
    with pytest.raises(ValueError, match="0.png: expected a training crop of at most 40x48, got 64x48"):
        model(batch(1, (64, 48)))
    items = batch(2)
    del items[1]["sem_seg"]
    with pytest.raises(ValueError, match="1.png: expected semantic segmentation labels"):
        model(items)


def test_one_image_per_process_with_plain_norm_is_explained() -> None:
    with pytest.raises(RuntimeError, match="IMS_PER_BATCH"):
        build_student(tiny_cfg()).train()(batch(1))


def test_training_returns_weighted_losses() -> None:
    torch.manual_seed(0)
    model = build_student(tiny_cfg("MODEL.AUX_HEAD.LOSS_WEIGHT", 0.25)).train()
    items = batch(2)
    images, target = model.preprocess(items)
    output = model.predict(images)
    losses = model.losses(output, target)
    assert list(losses) == ["loss_ce", "loss_aux"]
    torch.testing.assert_close(losses["loss_aux"], 0.25 * model.pixel_loss(output.aux, target))
    # ln 5 of an untrained network, counted over all pixels
    share = float(target.ne(255).float().mean())
    assert float(losses["loss_ce"].detach()) == pytest.approx(np.log(5) * share, rel=0.02)
    alone = build_student(tiny_cfg("MODEL.AUX_HEAD.LOSS_WEIGHT", 0.0)).train()
    assert list(alone(items)) == ["loss_ce"]
    assert not any("auxiliary" in key for key in alone.state_dict())


def test_evaluation_returns_scores_at_the_original_size() -> None:
    model = build_student(tiny_cfg()).eval()
    items = [
        {**batch(1, (33, 47))[0], "height": 66, "width": 90},
        {"image": batch(1, (24, 40))[0]["image"]},
    ]
    with torch.no_grad():
        one, two = model(items)
    assert one["sem_seg"].shape == (5, 66, 90)
    assert two["sem_seg"].shape == (5, 24, 40)


def test_features_are_declared() -> None:
    model = build_student(tiny_cfg())
    output = model.eval().predict(torch.rand(1, 3, 40, 48))
    assert {k: v.shape[1] for k, v in output.features.items()} == model.feature_channels()


def test_learns_a_batch() -> None:
    torch.manual_seed(0)
    model = build_student(tiny_cfg()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    items, history = batch(2), []
    for _ in range(40):
        loss = sum(model(items).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.7 * history[0]


def test_torchvision_network_through_the_contract(tmp_path: Path) -> None:
    model = build_student(tiny_cfg(text=TORCHVISION))
    assert isinstance(model, ModuleSegmentor)
    assert list(model.train()(batch(2))) == ["loss_ce"]
    with torch.no_grad():
        result = model.eval()([{"image": batch(1)[0]["image"], "height": 80, "width": 96}])
    assert result[0]["sem_seg"].shape == (5, 80, 96)
    # A state dict of the bare network loads too.
    torch.save(model.network.state_dict(), tmp_path / "bare.pth")
    other = build_student(tiny_cfg(text=TORCHVISION))
    load_strict(other, str(tmp_path / "bare.pth"))
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


class Constant(nn.Module):
    """A network for the factory: returns what it is told."""

    def __init__(self, kind: str = "tensor", classes: int = 5) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, classes, 1)

    def forward(self, x: torch.Tensor) -> object:
        y = self.conv(x)
        return {
            "tensor": y, "out": {"out": y, "aux": y}, "output": SegOutput(y), "list": [y],
        }[self.kind]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "terms"),
    [("tensor", ["loss_ce"]), ("out", ["loss_ce", "loss_aux"]), ("output", ["loss_ce"])],
)
def test_outputs_of_foreign_modules(kind: str, terms: list[str]) -> None:
    cfg = tiny_cfg(
        *("MODEL.META_ARCHITECTURE", "ModuleSegmentor", "MODEL.MODULE.KWARGS", [["kind", kind]]),
        *("MODEL.MODULE.FACTORY", f"{__name__}:Constant"),
    )
    assert list(build_student(cfg).train()(batch(1))) == terms


def test_foreign_modules_that_do_not_fit_are_explained() -> None:
    base = ("MODEL.META_ARCHITECTURE", "ModuleSegmentor", "MODEL.MODULE.FACTORY")
    for path in ("torchvision.models", "no.such:thing", f"{__name__}:Nothing", ""):
        with pytest.raises(ValueError, match="expected 'package.module:callable'"):
            build_student(tiny_cfg(*base, path))
    here = (*base, f"{__name__}:Constant", "MODEL.MODULE.KWARGS")
    with pytest.raises(ValueError, match=r"MODEL.MODULE.KWARGS: expected arguments of .*unexpected keyword .*'clases'"):
        build_student(tiny_cfg(*here, [["clases", 7]]))
    with pytest.raises(ValueError, match="found no 'no' .*PYTHONPATH"):
        build_student(tiny_cfg(*base, "no.such:thing"))
    with pytest.raises(TypeError, match="mapping with 'out'"):
        build_student(tiny_cfg(*here, [["kind", "list"]])).train()(batch(1))
    with pytest.raises(ValueError, match="expected logits of 5 classes .* got 7"):
        build_student(tiny_cfg(*here, [["classes", 7]])).train()(batch(1))


def test_detectron2s_own_segmentor_through_the_contract(tmp_path: Path) -> None:
    cfg = get_cfg()
    add_bpkd_config(cfg)
    cfg.merge_from_other_cfg(tiny_cfg())
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.SEM_SEG_HEAD.NORM = "GN"
    own = build_model(cfg).eval()
    model = build_student(cfg).eval()
    model.load_state_dict(own.state_dict())  # same keys: its checkpoints fit
    item = {"image": batch(1, (64, 96))[0]["image"], "height": 64, "width": 96}
    with torch.no_grad():
        logits = model.scores(model.images([item])).logits
        assert logits.shape == (1, 5, 16, 24)
        upsampled = nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")
        torch.testing.assert_close(upsampled[0], own([item])[0]["sem_seg"], rtol=1e-4, atol=1e-5)
        assert model(batch(1, (50, 70)))[0]["sem_seg"].shape == (5, 50, 70)
    assert list(model.train()(batch(2))) == ["loss_ce"]


def test_unknown_architecture_and_foreign_models_are_explained() -> None:
    with pytest.raises(ValueError, match="BPKDSemanticSegmentor.*got 'PSPNet'"):
        build_student(tiny_cfg("MODEL.META_ARCHITECTURE", "PSPNet"))
    with pytest.raises(TypeError, match="Subclass bpkd.modeling.DenseModel"):
        build_student(tiny_cfg(
            *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
            *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", 50),
        ))  # fmt: skip
    with pytest.raises(TypeError, match="got SemSegFPNHead.*SemanticSegmentor"):
        build_student(tiny_cfg(
            *("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3"], "MODEL.FPN.IN_FEATURES", ["res2", "res3"]),
            *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3"], "MODEL.SEM_SEG_HEAD.NORM", "GN"),
        ))  # fmt: skip


def test_strict_loading_names_the_keys(tmp_path: Path) -> None:
    model: DenseModel = build_student(tiny_cfg())
    good, path = model.state_dict(), tmp_path / "weights.pth"

    def load(state: dict) -> None:
        torch.save({"model": state}, path)
        load_strict(model, str(path))

    load(good)
    load({k: v for k, v in good.items() if not k.endswith("num_batches_tracked")})
    key = "backbone.layer2.0.conv1.weight"
    with pytest.raises(CheckpointError, match=f"1 keys of the network are missing: {key}"):
        load({k: v for k, v in good.items() if k != key})
    with pytest.raises(CheckpointError, match="1 keys of the file are unexpected: backbone.extra"):
        load({**good, "backbone.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=rf"{key} \(2, 2\) \(network: "):
        load({**good, key: torch.zeros(2, 2)})
    other = build_student(tiny_cfg("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7))
    torch.save({"model": other.state_dict(), "bpkd": {"classes": list("abcdefg")}}, path)
    with pytest.raises(CheckpointError, match=r"7 classes \(a, b, c, d, ...\), model has 5"):
        load_strict(model, str(path))


def test_unreadable_checkpoints_are_explained(tmp_path: Path) -> None:
    model, path = nn.Linear(1, 1), tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match="MODEL.WEIGHTS: expected a checkpoint file"):
        load_strict(model, str(path))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_strict(model, str(path))
    torch.save({"model": model}, path)  # a pickled module could run code
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_strict(model, str(path))
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="expected a state dict under 'model' or 'state_dict'"):
        load_strict(model, str(path))
