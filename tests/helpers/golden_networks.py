"""The golden networks: inputs and weights, made from names alone, and how far a network's outputs are from them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bpkd.modeling.layers import resize

GOLDEN = Path(__file__).parents[1] / "golden" / "networks"
INPUTS = {"a": (0, (1, 3, 128, 128)), "b": (1, (1, 3, 97, 161))}
# Config -> golden name, gain of the filled batch norms: the eight of the paper, then two variants.
NETWORKS = {
    "pspnet_r101": ("pspnet_r101", 0.75),
    "pspnet_r18": ("pspnet_r18", 0.8),
    "hrnet_w48": ("hrnetv2p_w48", 0.5),
    "hrnet_w18s": ("hrnetv2p_w18s", 0.7),
    "deeplabv3plus_r101": ("deeplabv3plus_r101", 0.75),
    "deeplabv3plus_mv2": ("deeplabv3plus_mv2", 1.0),
    "isanet_r101": ("isanet_r101", 0.75),
    "isanet_r18": ("isanet_r18", 0.8),
    "pspnet_r18b": ("variant_pspnet_r18b", 0.8),
    "deeplabv3plus_mv2_c128": ("variant_deeplabv3plus_mv2_c128", 1.0),
}
EIGHT = tuple(NETWORKS)[:8]
TOLERANCE = 5e-5  # of the outputs' deviation; 1.6e-5 is what MobileNetV2 reaches in float32, the others 3e-6


def golden_of(architecture: str) -> dict[str, tuple[str, float]]:
    """The golden networks of one architecture, by config."""
    return {config: golden for config, golden in NETWORKS.items() if config.startswith(architecture)}


def filled_state(keys: dict[str, list[int]], gain: float) -> dict[str, Tensor]:
    """Weights made from key and shape alone."""
    state = {}
    for key, shape in keys.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
        if key.endswith("running_mean"):
            value = 0.1 * z
        elif key.endswith("running_var"):
            value = 1 + 0.1 * np.abs(z)
        elif len(shape) == 4:
            value = z * np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
        elif key.endswith(".weight"):
            value = gain * (1 + 0.1 * z)
        else:
            value = 0.1 * z
        state[key] = torch.from_numpy(value.astype(np.float32))
    return state


def fill(model: Any, config: str) -> None:
    """Gives a network with 19 classes the golden weights; its keys and shapes must be the golden ones, in order."""
    name, gain = NETWORKS[config]
    keys = json.loads((GOLDEN / f"{name}.keys.json").read_text())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == keys
    assert list(model.state_dict()) == list(keys)
    model.load_state_dict(filled_state(keys, gain))


@torch.no_grad()
def differences(model: Any, config: str, device: str = "cpu") -> tuple[dict[str, float], dict[str, int]]:
    """Compares a filled network in evaluation mode with the golden outputs.

    Returns:
        By output and input: the largest difference over the golden output's deviation, and how many pixels of the
        label map have another class.
    """
    golden = np.load(GOLDEN / f"{NETWORKS[config][0]}.logits.npz")
    apart, other = {}, {}
    for case, (seed, shape) in INPUTS.items():
        noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        output = model.predict(torch.from_numpy(noise).to(device))
        got = {"logits": output.logits}
        if model.auxiliary_head is not None:
            got["aux"] = model.auxiliary_head(output.features)[0]
        for key, value in got.items():
            want = golden[f"{key}_{case}"]
            apart[f"{key}_{case}"] = float(np.abs(value.cpu().numpy() - want).max() / want.std(ddof=1))
        for key, align in (("pred", False), ("pred_ac", True)):
            if f"{key}_{case}" in golden:
                classes = resize(output.logits, shape[2:], align_corners=align).argmax(1).cpu().numpy()
                other[f"{key}_{case}"] = int((classes != golden[f"{key}_{case}"]).sum())
    return apart, other
