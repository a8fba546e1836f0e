"""Which keys a complete backbone has, for files that are converted without building their network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

# Older files lack these counters, and nothing depends on them.
COUNTER = "num_batches_tracked"
NORM = ("weight", "bias", "running_mean", "running_var")
# (bottleneck blocks, blocks per stage) -> depth.
RESNETS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
# Blocks per stage of MobileNetV2.
MOBILENET_V2_BLOCKS = (1, 2, 3, 4, 3, 3, 1)


def architecture_keys(state: Mapping[str, Tensor]) -> list[str] | None:
    """Lists the keys of the complete ResNet or MobileNetV2 that a backbone's weights belong to.

    Args:
        state: under our names.

    Returns:
        The keys, without the counters that may be missing; None for other networks and unknown depths.
    """
    if "layer7.0.conv.0.conv.weight" in state:
        layers = ["conv1"]
        for stage, count in enumerate(MOBILENET_V2_BLOCKS, start=1):
            parts = range(2 if stage == 1 else 3)
            layers += [f"layer{stage}.{block}.conv.{part}" for block in range(count) for part in parts]
        keys = [key for layer in layers for key in _pair(f"{layer}.conv", f"{layer}.bn")]
    elif "layer4.0.conv1.weight" in state and not any(k.startswith("stage4.") for k in state):
        keys = _resnet_keys(state)
    else:
        return None
    counters = [k for k in state if k.endswith(COUNTER) and k.replace(COUNTER, "running_var") in keys]
    return [*keys, *counters] if keys else None


def _pair(conv: str, norm: str) -> list[str]:
    return [f"{conv}.weight", *(f"{norm}.{name}" for name in NORM)]


def _resnet_keys(state: Mapping[str, Tensor]) -> list[str]:
    bottleneck = "layer1.0.conv3.weight" in state
    found = [{k.split(".")[1] for k in state if k.startswith(f"layer{stage}.")} for stage in range(1, 5)]
    counts = tuple(map(len, found))
    if (bottleneck, counts) not in RESNETS:
        return []
    stem = [("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")]
    keys = [key for pair in (stem if "stem.0.weight" in state else [("conv1", "bn1")]) for key in _pair(*pair)]
    for stage, count in enumerate(counts, start=1):
        for name in (f"layer{stage}.{block}" for block in range(count)):
            for i in range(1, 4 if bottleneck else 3):
                keys += _pair(f"{name}.conv{i}", f"{name}.bn{i}")
            if name.endswith(".0") and (bottleneck or stage > 1):
                keys += _pair(f"{name}.downsample.0", f"{name}.downsample.1")
    return keys
