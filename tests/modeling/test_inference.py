"""Whole-image, sliding-window, multi-scale and mirrored inference, against OpenMMLab's scores and plain loops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd.modeling.inference import predict_logits, slide, window_starts
from tests.conftest import TOLERANCE
from tests.helpers.architecture import network
from tests.helpers.golden_networks import filled_state

GOLDEN = Path(__file__).parents[1] / "golden" / "networks"
NEAR = TOLERANCE[torch.float32]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def half_size(images: Tensor) -> Tensor:
    """A fake network: four linear scores at half the resolution."""
    x = F.avg_pool2d(images, 2, ceil_mode=True)
    return torch.cat([x, x.sum(1, keepdim=True)], 1)


def resized(x: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def test_slide_equals_openmmlabs() -> None:
    facts = json.loads((GOLDEN / "recipe.json").read_text())["slide"]
    golden = np.load(GOLDEN / "recipe_slide.npz")
    model = network("pspnet_r18", classes=19).eval()
    model.load_state_dict(filled_state(json.loads((GOLDEN / "pspnet_r18.keys.json").read_text()), 0.8))
    options = {"mode": "slide", "crop": tuple(facts["crop"]), "stride": tuple(facts["stride"])}

    def scores(image: Tensor, size: tuple[int, int]) -> Tensor:
        with torch.no_grad():
            return predict_logits(lambda x: model.predict(x).logits, image, size, **options)

    c, d = noise(1, 3, 150, 190, seed=2), noise(1, 3, 80, 200, seed=3)
    for name, image, size in (
        ("slide_c", c, (150, 190)),
        ("slide_c_ori", c, (119, 151)),
        ("slide_d", d, (80, 200)),
    ):
        got, want = scores(image, size), golden[name]
        assert np.abs(got[:, :, ::5, ::5].numpy() - want).max() <= NEAR * want.std()
        if f"mean_std_{name[-1]}" in facts:
            mean, std = facts[f"mean_std_{name[-1]}"]
            assert float(got.mean()) == pytest.approx(mean, abs=NEAR)
            assert float(got.std()) == pytest.approx(std, abs=NEAR)


def test_windows_of_an_axis() -> None:
    facts = json.loads((GOLDEN / "recipe.json").read_text())["slide"]
    assert [len(window_starts(n, 96, 64)) for n in (150, 190)] == facts["windows_c"]
    assert [len(window_starts(n, 96, 64)) for n in (80, 200)] == facts["windows_d"]
    assert window_starts(200, 96, 64) == [0, 64, 104]
    assert window_starts(96, 96, 64) == [0]
    assert window_starts(50, 96, 64) == [0]


@pytest.mark.parametrize("size", [(20, 33), (9, 12), (40, 8)])
def test_slide_equals_a_plain_loop(size: tuple[int, int]) -> None:
    image, crop, stride = noise(1, 3, *size), (12, 10), (7, 10)
    total, count = torch.zeros(1, 4, *size), torch.zeros(1, 1, *size)
    h, w = min(crop[0], size[0]), min(crop[1], size[1])
    for y in window_starts(size[0], crop[0], stride[0]):
        for x in window_starts(size[1], crop[1], stride[1]):
            total[:, :, y : y + h, x : x + w] += resized(half_size(image[:, :, y : y + h, x : x + w]), (h, w))
            count[:, :, y : y + h, x : x + w] += 1
    assert count.min() >= 1
    torch.testing.assert_close(slide(half_size, image, crop=crop, stride=stride), total / count, atol=NEAR, rtol=NEAR)


@pytest.mark.parametrize("align_corners", [False, True])
def test_whole_resizes_to_the_input_then_to_the_original(align_corners: bool) -> None:
    image = noise(1, 3, 21, 30)
    got = predict_logits(half_size, image, (50, 64), align_corners=align_corners)
    want = resized(resized(half_size(image), (21, 30), align_corners), (50, 64), align_corners)
    torch.testing.assert_close(got, want, atol=0, rtol=0)
    one_step = resized(half_size(image), (50, 64), align_corners)
    assert (got - one_step).abs().max() > 0.01


def test_scales_and_flip_average_probabilities() -> None:
    def network(x: Tensor) -> Tensor:  # sees left and right, and its input's size
        ramp = torch.linspace(0, 1, x.shape[3])
        return torch.cat([x[:, :1] * ramp, x[:, 1:2], x[:, 2:] * 0.1 * x.shape[2]], 1)

    image, size = noise(1, 3, 16, 20), (24, 30)
    want = torch.zeros(1, 3, *size)
    for factor in (0.5, 1.0, 1.5):
        view = resized(image, (int(16 * factor), int(20 * factor))) if factor != 1 else image
        seen = view.shape[2:]
        want += resized(resized(network(view), seen), size).softmax(1)
        want += resized(resized(network(view.flip(3)), seen), size).softmax(1).flip(3)
    got = predict_logits(network, image, size, scales=(0.5, 1.0, 1.5), flip=True)
    torch.testing.assert_close(got, want / 6, atol=NEAR, rtol=NEAR)
    torch.testing.assert_close(got.sum(1), torch.ones(1, *size), atol=NEAR, rtol=NEAR)


def test_odd_sizes_are_rounded_half_up() -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape[2:]))
        return half_size(x)

    predict_logits(network, noise(1, 3, 5, 9), (5, 9), scales=(0.5, 0.1))
    assert seen == [(3, 5), (1, 1)]


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'whole', 'slide'.*'tiles'"):
        predict_logits(half_size, noise(1, 3, 8, 8), (8, 8), mode="tiles")


def test_stride_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="SLIDE_STRIDE"):
        predict_logits(half_size, noise(1, 3, 40, 40), (40, 40), mode="slide", crop=(8, 8), stride=(12, 8))
    with pytest.raises(ValueError, match="SLIDE_STRIDE"):
        predict_logits(half_size, noise(1, 3, 40, 40), (40, 40), mode="slide", crop=(8, 8), stride=(0, 8))


def test_many_classes_equal_one_resize_after_the_other() -> None:
    scores = noise(1, 21, 9, 14)  # more than one group of classes, the last one not full
    for align_corners in (False, True):
        got = predict_logits(lambda x: scores, noise(1, 3, 70, 112), (90, 101), align_corners=align_corners)
        want = resized(resized(scores, (70, 112), align_corners), (90, 101), align_corners)
        torch.testing.assert_close(got, want, atol=0, rtol=0)


def test_the_networks_own_tensor_is_left_alone() -> None:
    image = noise(1, 3, 70, 20)
    before = image.clone()
    got = predict_logits(lambda x: x, image, (70, 20), flip=True)
    assert torch.equal(image, before)
    torch.testing.assert_close(got, before.softmax(1), atol=NEAR, rtol=NEAR)


def test_windows_at_once_change_nothing() -> None:
    image, options = noise(1, 3, 40, 33), {"crop": (12, 10), "stride": (7, 10)}
    seen: list[int] = []

    def network(x: Tensor) -> Tensor:
        seen.append(len(x))
        return half_size(x)

    one, many = (slide(network, image, windows=n, **options) for n in (1, 7))
    torch.testing.assert_close(one, many, atol=NEAR, rtol=NEAR)
    assert max(seen) == 7
    assert seen.count(1) >= 20  # 5 x 4 windows


PEAK = """
import sys, torch
from bpkd.modeling.inference import predict_logits
classes, height, width = (int(v) for v in sys.argv[2:])
torch.set_num_threads(1)
options = dict(eval(sys.argv[1]))
size = options.pop("size", (height, width))
def network(x):
    return torch.rand(len(x), classes, -(-x.shape[2] // 8), -(-x.shape[3] // 8))
network(torch.zeros(1, 3, 64, 64)).softmax(1)
image = torch.zeros(1, 3, height, width)
def memory(name):
    line = next(s for s in open("/proc/self/status") if s.startswith(name))
    return 1024 * int(line.split()[1])
before = memory("VmSize")
with torch.no_grad():
    predict_logits(network, image, size, **options)[0].argmax(0)
print((memory("VmPeak") - before) / (4 * classes * size[0] * size[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak of a process")
@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"size": (512, 1024)}, 1.4),
        ({"mode": "slide", "crop": (128, 128), "stride": (85, 85)}, 1.4),
        ({"scales": (0.5, 1.0, 1.5), "flip": True}, 2.5),
    ],
)
def test_memory_stays_near_one_map_of_scores(options: dict, limit: float) -> None:
    """In maps [K, H, W] of float32: one for the result, a second one where views are averaged.

    Of address space, with freed blocks given back at once: what is resident shrinks when the machine takes the
    process's idle pages, and what the allocator keeps differs from run to run.
    """
    command = [sys.executable, "-c", PEAK, repr(options), "150", "384", "768"]
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **settings})
    assert 0.9 < float(done.stdout) < limit
