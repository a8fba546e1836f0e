"""Our networks compute what OpenMMLab's do: keys, shapes, logits, through the strict loader."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bpkd.convert import load_strict
from bpkd.modeling import build_student

from .tiny_networks import tiny_cfg

GOLDEN = Path(__file__).parent / "golden" / "networks"
# Network -> gain of the filled batch norms, and the config that describes it.
NETWORKS: dict[str, tuple[float, dict[str, Any]]] = {
    "pspnet_r18": (0.8, {"DEPTH": 18, "CHANNELS": 128, "AUX": 64, "DEEP_STEM": True}),
    "variant_pspnet_r18b": (0.8, {"DEPTH": 18, "CHANNELS": 128, "AUX": 64, "DEEP_STEM": False}),
    "pspnet_r101": (0.75, {"DEPTH": 101, "CHANNELS": 512, "AUX": 256, "DEEP_STEM": True}),
}
INPUTS = {"a": (0, (1, 3, 128, 128)), "b": (1, (1, 3, 97, 161))}


def network_cfg(spec: dict[str, Any]) -> Any:
    return tiny_cfg(
        *("MODEL.RESNET_V1C.DEPTH", spec["DEPTH"], "MODEL.RESNET_V1C.WIDTH_MULTIPLIER", 1.0),
        *("MODEL.RESNET_V1C.DEEP_STEM", spec["DEEP_STEM"], "MODEL.AUX_HEAD.CHANNELS", spec["AUX"]),
        *("MODEL.SEM_SEG_HEAD.CHANNELS", spec["CHANNELS"], "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19),
    )


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


@pytest.mark.parametrize("name", NETWORKS)
def test_keys_and_logits_equal_openmmlabs(name: str, tmp_path: Path) -> None:
    gain, spec = NETWORKS[name]
    model = build_student(network_cfg(spec))
    keys = json.loads((GOLDEN / f"{name}.keys.json").read_text())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == keys
    assert list(model.state_dict()) == list(keys)

    # The layout of OpenMMLab's files, from a distributed run.
    state = {f"module.{k}": v for k, v in filled_state(keys, gain).items()}
    torch.save({"state_dict": state, "meta": {"CLASSES": ("a", "b")}}, tmp_path / "weights.pth")
    info = load_strict(model, str(tmp_path / "weights.pth"))
    assert (info.layout, info.classes) == ("OpenMMLab", ("a", "b"))

    model.eval()
    golden = np.load(GOLDEN / f"{name}.logits.npz")
    for case, (seed, shape) in INPUTS.items():
        noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        with torch.no_grad():
            output = model.predict(torch.from_numpy(noise))
            aux, _ = model.auxiliary_head(output.features)
        assert output.aux is None
        for got, key in ((output.logits, "logits"), (aux, "aux")):
            want = golden[f"{key}_{case}"]
            assert np.abs(got.numpy() - want).max() <= 1e-5 * want.std(ddof=1)
