"""The networks of `configs/networks`, ours and as mmsegmentation builds them: for comparisons only.

mmsegmentation's are described by plain dicts for its own `EncoderDecoder`. The library needs none of it;
docs/results/benchmarks_networks.md says how to install it beside the project's environment.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.projects import replace_operators
from bpkd.config import read_config
from bpkd.modeling import build_student

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "networks"

# The environment's torch and numpy stay as they are: nothing is installed with its dependencies.
INSTALL = (
    "python -m pip install --no-deps --target SITE mmsegmentation==1.2.2 mmengine==0.10.7 mmcv-lite==2.1.0 "
    "scipy==1.13.1 addict==2.4.0 yapf==0.43.0 ftfy==6.3.1 prettytable==3.18.0 regex rich pygments markdown-it-py "
    "mdurl platformdirs wcwidth"
)
Spec = dict[str, Any]
BN: Spec = {"type": "BN", "requires_grad": True}


def _resnet(depth: int, kind: str = "ResNetV1c") -> Spec:
    shape = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "contract_dilation": True, "style": "pytorch"}
    return {"type": kind, "depth": depth, "out_indices": (0, 1, 2, 3), "norm_cfg": BN, **shape}


def _hrnet(width: int, blocks: int, modules: tuple[int, int, int]) -> Spec:
    first = {"num_modules": 1, "num_branches": 1, "block": "BOTTLENECK", "num_blocks": (blocks,), "num_channels": (64,)}
    extra: Spec = {"stage1": first}
    for branches, count in zip((2, 3, 4), modules, strict=True):
        extra[f"stage{branches}"] = {
            "num_modules": count,
            "num_branches": branches,
            "block": "BASIC",
            "num_blocks": (blocks,) * branches,
            "num_channels": tuple(width * 2**b for b in range(branches)),
        }
    return {"type": "HRNet", "extra": extra, "norm_cfg": BN}


def _mobilenet() -> Spec:
    shape = {"strides": (1, 2, 2, 1, 1, 1, 1), "dilations": (1, 1, 1, 2, 2, 4, 4), "out_indices": (1, 2, 4, 6)}
    return {"type": "MobileNetV2", "widen_factor": 1.0, "norm_cfg": BN, **shape}


def _psp(inputs: int, channels: int) -> Spec:
    return {"type": "PSPHead", "in_channels": inputs, "in_index": 3, "channels": channels, "pool_scales": (1, 2, 3, 6)}


def _isa(inputs: int, channels: int) -> Spec:
    shape = {"isa_channels": 256, "down_factor": (8, 8)}
    return {"type": "ISAHead", "in_channels": inputs, "in_index": 3, "channels": channels, **shape}


def _aspp(inputs: int, channels: int, low: int) -> Spec:
    shape = {"dilations": (1, 12, 24, 36), "c1_in_channels": low, "c1_channels": 48}
    name = "DepthwiseSeparableASPPHead"
    return {"type": name, "in_channels": inputs, "in_index": 3, "channels": channels, **shape}


def _fcn_of_four(width: int) -> Spec:
    maps = [width * 2**b for b in range(4)]
    shape = {"num_convs": 1, "kernel_size": 1, "concat_input": False, "dropout_ratio": -1}
    inputs = {"in_channels": maps, "in_index": (0, 1, 2, 3), "input_transform": "resize_concat"}
    return {"type": "FCNHead", **inputs, "channels": sum(maps), **shape}


def _aux(inputs: int, channels: int) -> Spec:
    shape = {"num_convs": 1, "concat_input": False}
    return {"type": "FCNHead", "in_channels": inputs, "in_index": 2, "channels": channels, **shape}


# Name -> backbone, decode head, auxiliary head: the eight of the paper, then two variants.
NETWORKS: dict[str, tuple[Spec, Spec, Spec | None]] = {
    "pspnet_r101": (_resnet(101), _psp(2048, 512), _aux(1024, 256)),
    "pspnet_r18": (_resnet(18), _psp(512, 128), _aux(256, 64)),
    "hrnet_w48": (_hrnet(48, 4, (1, 4, 3)), _fcn_of_four(48), None),
    "hrnet_w18s": (_hrnet(18, 2, (1, 3, 2)), _fcn_of_four(18), None),
    "deeplabv3plus_r101": (_resnet(101), _aspp(2048, 512, 256), _aux(1024, 256)),
    "deeplabv3plus_mv2": (_mobilenet(), _aspp(320, 512, 24), _aux(96, 256)),
    "isanet_r101": (_resnet(101), _isa(2048, 512), _aux(1024, 256)),
    "isanet_r18": (_resnet(18), _isa(512, 128), _aux(256, 64)),
    "pspnet_r18b": (_resnet(18, "ResNet"), _psp(512, 128), _aux(256, 64)),
    "deeplabv3plus_mv2_c128": (_mobilenet(), _aspp(320, 128, 24), _aux(96, 64)),
}


def import_mmseg(folder: Path | None = None) -> Any:
    """Imports mmsegmentation's models and returns the package.

    It imports the compiled operators of mmcv on import, though none of these networks uses one; where mmcv-lite
    stands in for mmcv they are replaced by names.

    Args:
        folder: where mmsegmentation was installed; None: it is importable already.

    Raises:
        ImportError: it, or something that it imports, is not there; the message says how to install it.
    """
    if folder is not None:
        sys.path.append(str(folder))  # last: the environment's own packages stay what they are
    try:
        replace_operators()
        import mmseg.models
    except ImportError as error:
        raise ImportError(
            f"mmsegmentation cannot be imported ({error}). Install it beside the environment, SITE being a new "
            f"folder:\n  {INSTALL}\nthen set PYTHONPATH=SITE (docs/results/benchmarks_networks.md)."
        ) from error
    return mmseg


def build_mmseg(name: str, num_classes: int, dropout: float = 0.1) -> nn.Module:
    """Builds mmsegmentation's network with random weights.

    Args:
        name: a key of `NETWORKS`.
        num_classes: number of classes.
        dropout: before the classifiers; HRNet's head has none.
    """
    backbone, decode, aux = NETWORKS[name]
    common = {"num_classes": num_classes, "norm_cfg": BN, "align_corners": False, "dropout_ratio": dropout}
    model = {
        "type": "EncoderDecoder",
        "backbone": backbone,
        "decode_head": {**common, **decode},
        "auxiliary_head": None if aux is None else {**common, **aux},
        "test_cfg": {"mode": "whole"},
    }
    return import_mmseg().registry.MODELS.build(model)


def mmseg_logits(model: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns the scores [N, K, h, w] of the decode head and, in training, of the auxiliary head if there is one."""
    stages = model.extract_feat(images)
    decode = model.decode_head(stages)
    aux = model.auxiliary_head(stages) if model.training and model.with_auxiliary_head else None
    return decode, aux


def build_ours(name: str, num_classes: int, dropout: float | None = None, device: str = "cpu") -> nn.Module:
    """Builds our network with random weights and plain batch norm; dropout None leaves the config's."""
    opts = ["MODEL.DEVICE", device, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", num_classes]
    for node in ("RESNET_V1C", "HRNET", "MOBILENET_V2", "SEM_SEG_HEAD"):
        opts += [f"MODEL.{node}.NORM", "BN"]
    opts += [] if dropout is None else ["MODEL.SEM_SEG_HEAD.DROPOUT", dropout]
    return build_student(read_config(str(CONFIGS / f"{name}.yaml"), opts))


def our_logits(model: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """What `mmseg_logits` returns, of our network."""
    output = model.predict(images)
    return output.logits, output.aux


def random_state_dict(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Returns a state dict in which no residual branch is zero and no running statistic is trivial."""
    generator = torch.Generator().manual_seed(seed)
    state = copy.deepcopy(model.state_dict())
    for key, value in state.items():
        noise = torch.randn(value.shape, generator=generator).to(value.device)
        if key.endswith("running_var"):
            value.copy_(1 + 0.1 * noise.abs())
        elif key.endswith(("running_mean", ".bias")):
            value.copy_(0.1 * noise)
        elif value.dim() == 1:
            value.copy_(0.75 * (1 + 0.1 * noise))
    return state
