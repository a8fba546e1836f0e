"""SOLOv2's networks: names, sizes, the deformable layer and the outputs of mmdetection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.structures import ImageList
from torch import nn

from bpkd.modeling.solov2 import EvalBatchNorm2d, InstanceHead, MaskHead, ModulatedDeformConv2d
from bpkd.modeling.solov2.deform import rename_old_offsets
from tests.helpers.golden_solov2 import FORWARDS, filled_network, forward_differences, network, numbers, table

# spec: parameters with the norms' weights counted, as mmdetection counts; with Detectron2's frozen norms.
COUNTS = {
    "light_r18": (18_271_760, 18_262_160),
    "r50": (46_592_912, None),
    "r101_dcn": (68_729_118, None),
    "x101_dcn": (113_420_574, 113_217_694),
}


def mapped(name: str) -> dict[str, tuple[int, ...]]:
    from bpkd.convert.rules import recognise, rename

    keys = table(f"keys_mmdet_solov2_{name}")
    state = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    renamed = rename(state, recognise(state))
    assert not renamed.left_over
    assert all(key.endswith("num_batches_tracked") for key in renamed.dropped)
    return {key: tuple(value.shape) for key, value in renamed.state.items()}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_keys_shapes_and_parameters_are_mmdetections(name: str) -> None:
    model = network(name)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == mapped(name)
    own = sum(p.numel() for p in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    affine = sum(m.weight.numel() + m.bias.numel() for m in norms)
    whole, frozen = COUNTS[name]
    assert own + affine == whole
    assert frozen in (None, own)


@pytest.mark.parametrize("name", ["light_r18", "x101_dcn"])
def test_the_key_map_is_the_published_one(name: str) -> None:
    from bpkd.convert.rules import recognise, rename

    state = {k: torch.zeros(0) for k in table(f"keys_mmdet_solov2_{name}")}
    assert rename(state, recognise(state)).mapped == table(f"keymap_mmdet_to_d2_{name}")


def test_r50_has_adelaidets_names() -> None:
    theirs = {k: tuple(shape) for k, shape in table("keys_adelaidet_solov2_r50").items()}
    ours = {k: tuple(v.shape) for k, v in network("r50").state_dict().items()}
    assert ours == theirs


def test_light_trains_what_detectron2_trains() -> None:
    model = network("light_r18")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 18_105_296


def test_bn_eval_affine_trains_the_norms_of_res3_to_res5_and_keeps_the_outputs() -> None:
    plain, trained = network("light_r18"), network("light_r18", "MODEL.SOLOV2.BN_EVAL_AFFINE", "True")
    more = [p for m in trained.modules() if isinstance(m, EvalBatchNorm2d) for p in m.parameters()]
    assert sum(p.numel() for p in more) == 8_960
    assert all(p.requires_grad for p in more)
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in trained.modules()) == 5  # stem and res2
    state = {
        k: v + 0.1 * torch.rand_like(v) if "norm" in k and v.is_floating_point() else v
        for k, v in trained.state_dict().items()
    }
    trained.load_state_dict(state)
    plain.load_state_dict({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})
    trained.train()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(trained.backbone(x)["p5"], plain.backbone(x)["p5"])
    assert not [m for m in trained.modules() if isinstance(m, EvalBatchNorm2d) and m.training]


def test_bn_eval_affine_needs_a_frozen_norm() -> None:
    with pytest.raises(ValueError, match=r"BN_EVAL_AFFINE: expected .*FrozenBN, got 'BN'"):
        network("light_r18", "MODEL.SOLOV2.BN_EVAL_AFFINE", "True", "MODEL.RESNETS.NORM", "BN")


def dcn_case(index: int) -> tuple[ModulatedDeformConv2d, torch.Tensor, torch.Tensor]:
    data = numbers("dcn_layer")
    cin, cout, kernel, stride, padding, dilation, groups, deform = (int(v) for v in data[f"case{index}_cfg"])
    layer = ModulatedDeformConv2d(
        cin, cout, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, deform_groups=deform
    )
    layer.load_state_dict(
        {
            "weight": torch.from_numpy(data[f"case{index}_weight"]),
            "conv_offset.weight": torch.from_numpy(data[f"case{index}_offset_weight"]),
            "conv_offset.bias": torch.from_numpy(data[f"case{index}_offset_bias"]),
        }
    )
    return layer, torch.from_numpy(data[f"case{index}_x"]), torch.from_numpy(data[f"case{index}_y"])


@pytest.mark.parametrize("index", range(4))
def test_deformable_layer_is_mmcvs(index: int) -> None:
    layer, x, y = dcn_case(index)
    torch.testing.assert_close(layer(x), y, atol=1e-5, rtol=0)


def test_deformable_gradients_in_float64() -> None:
    layer, _, _ = dcn_case(0)
    layer = layer.double()
    x = torch.randn(1, 8, 4, 5, dtype=torch.float64, requires_grad=True)
    names = [n for n, _ in layer.named_parameters()]

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)


def test_deformable_starts_as_half_a_convolution() -> None:
    layer = ModulatedDeformConv2d(6, 4, 3, padding=1, stride=2, groups=2, bias=True)
    x = torch.randn(2, 6, 9, 7)
    plain = nn.functional.conv2d(x, 0.5 * layer.weight, layer.bias, stride=2, padding=1, groups=2)
    torch.testing.assert_close(layer(x), plain)


def test_deformable_offsets_stay_in_float32_under_autocast() -> None:
    layer, x, y = dcn_case(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    torch.testing.assert_close(out, y, atol=1e-5, rtol=0)


def test_deformable_loads_the_names_of_older_files() -> None:
    layer, x, y = dcn_case(1)
    old = nn.Sequential()
    old.add_module("conv2", ModulatedDeformConv2d(16, 16, 3, stride=2, padding=1, groups=4))
    state = {f"conv2.{k}".replace("conv2.conv_offset.", "conv2_offset."): v for k, v in layer.state_dict().items()}
    assert "conv2_offset.bias" in state
    old.register_load_state_dict_pre_hook(rename_old_offsets)
    old.load_state_dict(state, strict=True)
    torch.testing.assert_close(old(x), y, atol=1e-5, rtol=0)


def test_the_network_loads_the_names_of_older_files() -> None:
    model = network("r101_dcn")
    state = {k.replace(".conv2.conv_offset.", ".conv2_offset."): v + 1 for k, v in model.state_dict().items()}
    assert sum("conv2_offset" in k for k in state) == 60
    model.load_state_dict(state, strict=True)
    assert float(model.backbone.bottom_up.res4[3].conv2.conv_offset.bias[5]) == 1


def test_deformable_refuses_groups_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"4 groups divide, got 6 in, 8 out"):
        ModulatedDeformConv2d(6, 8, 3, groups=4)


def test_the_teacher_is_built_without_detectron2s_compiled_part(monkeypatch: pytest.MonkeyPatch) -> None:
    from detectron2.modeling.backbone import resnet

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ImportError("detectron2._C")

    monkeypatch.setattr(resnet, "ModulatedDeformConv", refuse)
    model = network("r101_dcn")
    deformable = [m for m in model.modules() if isinstance(m, ModulatedDeformConv2d)]
    assert len(deformable) == 46  # 30 in the backbone, 8 in the branches, 8 in the mask branch


def test_basic_blocks_cannot_be_deformable() -> None:
    with pytest.raises(ValueError, match="DEFORM_ON_PER_STAGE: expected a ResNet of bottlenecks"):
        network("light_r18", "MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, False, True]",
                "MODEL.RESNETS.DEFORM_MODULATED", "True")  # fmt: skip
    with pytest.raises(ValueError, match="DEFORM_MODULATED: expected True"):
        network("r50", "MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, False, True]")


@pytest.mark.parametrize("name", list(FORWARDS))
def test_forward_is_mmdetections(name: str) -> None:
    model, shape = filled_network(name), FORWARDS[name][1]
    apart, out = forward_differences(model, name)
    assert max(apart.values()) <= 1, apart
    stats = table("forward_stats")[f"forward_{name}.npz"]["mask_feats"]
    assert list(out.mask_features.shape) == stats["shape"]
    assert float(out.mask_features.abs().sum()) == pytest.approx(stats["abs_sum"], rel=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model.mask_head.conv_pred(sum(out.mask_towers)), out.mask_features)
    assert {tuple(tower.shape[1:]) for tower in out.mask_towers} == {(128, shape[2] // 4, shape[3] // 4)}
    assert out.canvas == shape[2:]


def test_initial_weights_are_the_documented_ones() -> None:
    head = InstanceHead(in_channels=32, num_classes=3, num_grids=(4, 3, 2), kernel_channels=8, channels=32, dcn="last")
    assert float(head.cate_pred.bias[0]) == pytest.approx(-4.59512, abs=1e-5)
    weights = [m.weight for m in head.modules() if isinstance(m, (nn.Conv2d, ModulatedDeformConv2d))]
    offsets = [m.conv_offset for m in head.modules() if isinstance(m, ModulatedDeformConv2d)]
    assert len(offsets) == 2
    assert all(not o.weight.any() and not o.bias.any() for o in offsets)
    plain = torch.cat([w.flatten() for w in weights if not any(w is o.weight for o in offsets)])
    assert float(plain.std()) == pytest.approx(0.01, rel=0.05)


def test_heads_name_the_key_that_is_wrong() -> None:
    with pytest.raises(ValueError, match="DCN: expected one of none, last, all, got 'some'"):
        InstanceHead(in_channels=32, num_classes=3, num_grids=(4, 3, 2), kernel_channels=8, dcn="some")
    head = InstanceHead(in_channels=32, num_classes=3, num_grids=(4, 3, 2), kernel_channels=8, channels=32)
    with pytest.raises(ValueError, match="2 maps for 3 grids"):
        head([torch.zeros(1, 32, 8, 8), torch.zeros(1, 32, 4, 4)])
    with pytest.raises(ValueError, match="IN_FEATURES.*got 'p9'"):
        network("light_r18", "MODEL.SOLOV2.IN_FEATURES", "['p2', 'p3', 'p9']")


def test_a_norm_of_none_has_no_norm() -> None:
    head = MaskHead(in_channels=16, num_levels=3, out_channels=8, channels=16, norm="")
    features, towers = head([torch.rand(1, 16, 8 // 2**i, 8 // 2**i) for i in range(3)])
    assert not any(isinstance(m, nn.GroupNorm) for m in head.modules())
    assert features.shape == (1, 8, 8, 8)
    assert len(towers) == 3


def test_images_are_normalised_in_the_networks_order_and_padded_with_zeros() -> None:
    model = network("light_r18")
    image = torch.randint(0, 255, (3, 50, 70), dtype=torch.uint8)
    images = model.preprocess([{"image": image.flip(0), "image_format": "BGR"}, {"image": image[:, :30]}])
    assert isinstance(images, ImageList)
    assert images.tensor.shape == (2, 3, 64, 96)
    expected = (image.float() - model.pixel_mean) / model.pixel_std
    torch.testing.assert_close(images.tensor[0, :, :50, :70], expected)
    assert not images.tensor[0, :, 50:].any()
    assert not images.tensor[1, :, 30:].any()
