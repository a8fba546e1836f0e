"""The augmentation's statistics: rates, ranges and shapes of what is drawn, read off the pixels.

Seeds are fixed. Rates may be off by four binomial standard errors; a uniform variable's empirical distribution by
1.95 / sqrt(n), Kolmogorov and Smirnov's bound at one in a thousand; counts of equally likely values by five standard
deviations of chi square.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bpkd.data.augment import TrainAugmentation, photometric, scaled

N = 4000
GREY = np.arange(256, dtype=np.uint8)


def assert_rate(hits: np.ndarray, rate: float) -> None:
    assert np.mean(hits) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(hits)) ** 0.5)


def assert_uniform(values: np.ndarray, low: float, high: float, resolution: float) -> None:
    """Values of U(low, high), each known to ``resolution``."""
    assert low - resolution <= values.min()
    assert values.max() <= high + resolution
    steps = np.arange(len(values)) / len(values)
    expected = np.clip((np.sort(values) - low) / (high - low), 0, 1)
    apart = max(np.abs(expected - steps).max(), np.abs(expected - steps - 1 / len(values)).max())
    assert apart < 1.95 / len(values) ** 0.5 + resolution / (high - low)


def assert_equally_likely(values: np.ndarray, low: int, high: int) -> None:
    """Integers low..high."""
    counts = np.bincount(values - low, minlength=high - low + 1)
    assert len(counts) == high - low + 1
    freedom, expected = len(counts) - 1, len(values) / len(counts)
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * (2 * freedom) ** 0.5


def draw(augment: TrainAugmentation, image: np.ndarray, label: np.ndarray, n: int = N) -> list[tuple]:
    rng = np.random.default_rng(0)
    return [augment(image, label, rng) for _ in range(n)]


def test_scale_is_uniform_and_keeps_the_shape() -> None:
    image, label = np.zeros((20, 400, 3), np.uint8), np.zeros((20, 400), np.uint8)
    found = draw(TrainAugmentation((64, 900), max_class_share=1.0, distort=False), image, label)
    sizes = np.array([mask.shape for _, mask in found])
    assert all(picture.shape[:2] == mask.shape for picture, mask in found)
    assert_uniform(sizes[:, 1] / 400, 0.5, 2.0, resolution=0.5 / 400)
    assert np.abs(sizes[:, 0] / 20 - sizes[:, 1] / 400).max() <= 0.5 / 20 + 0.5 / 400


def test_scale_is_that_of_the_image_fitted_into_the_box() -> None:
    image, label = np.zeros((5, 60, 3), np.uint8), np.zeros((5, 60), np.uint8)
    augment = TrainAugmentation((99, 999), resize_box=(240, 80), max_class_share=1.0, distort=False)
    widths = np.array([mask.shape[1] for _, mask in draw(augment, image, label)])
    assert_uniform(widths / 240, 0.5, 2.0, resolution=0.5 / 240)


def test_half_are_mirrored_image_and_label_alike() -> None:
    image = np.broadcast_to(np.arange(50, dtype=np.uint8)[None, :, None], (9, 50, 3)).copy()
    augment = TrainAugmentation((9, 50), scale_range=(1.0, 1.0), max_class_share=1.0, distort=False)
    found = draw(augment, image, image[..., 0].copy())
    flipped = np.array([mask[0, 0] == 49 for _, mask in found])
    for picture, mask in found:
        assert np.array_equal(picture[..., 0], mask)
        assert np.array_equal(np.sort(mask[0]), np.arange(50))
    assert_rate(flipped, 0.5)
    assert not any(mask[0, 0] == 49 for _, mask in draw(TrainAugmentation(**{**vars(augment), "flip_prob": 0.0}),
                                                         image, image[..., 0].copy(), 50))  # fmt: skip


def test_crops_lie_anywhere_with_the_same_chance() -> None:
    rows, columns = np.mgrid[:60, :90].astype(np.uint8)
    image = np.dstack([rows, columns, rows])
    augment = TrainAugmentation((20, 30), scale_range=(1.0, 1.0), max_class_share=1.0, flip_prob=0.0, distort=False)
    found = draw(augment, image, columns)
    corners = np.array([picture[0, 0, :2] for picture, _ in found], int)
    assert {picture.shape for picture, _ in found} == {(20, 30, 3)}
    assert all(np.array_equal(picture[..., 1], mask) for picture, mask in found)
    assert_equally_likely(corners[:, 0], 0, 40)
    assert_equally_likely(corners[:, 1], 0, 60)
    assert abs(np.corrcoef(corners.T)[0, 1]) < 4 / N**0.5


def breaks(window: np.ndarray, cap: float) -> bool:
    """The rule of the paper's recipe: one class alone, or one with the capped share or more, of the valid pixels."""
    ids, counts = np.unique(window, return_counts=True)
    counts = counts[ids != 255]
    return len(counts) <= 1 or counts.max() / counts.sum() >= cap


@pytest.mark.parametrize("cap", [0.75, 0.6])
def test_a_crop_over_the_cap_is_redrawn_ten_times(cap: float) -> None:
    label = np.zeros((4, 400), np.uint8)
    label[:, 200:230], label[:, 230:300], label[:, 350:] = 1, 255, 2  # 255 counts for nobody
    windows = [label[:, x : x + 40] for x in range(361)]
    bad = np.mean([breaks(w, cap) for w in windows])
    assert 0.65 < bad < 0.97
    own = {} if cap == 0.75 else {"max_class_share": cap}  # 0.75 is what it does unasked
    augment = TrainAugmentation((4, 40), scale_range=(1.0, 1.0), distort=False, **own)
    found = [mask for _, mask in draw(augment, np.zeros((4, 400, 3), np.uint8), label, 3 * N)]
    assert_rate(np.array([breaks(m, cap) for m in found]), bad**11)  # the first, ten more, the last unchecked


def test_without_a_cap_no_crop_is_redrawn() -> None:
    label = np.zeros((4, 400), np.uint8)
    label[:, 200:] = 1
    augment = TrainAugmentation((4, 40), scale_range=(1.0, 1.0), max_class_share=1.0, distort=False)
    found = [mask for _, mask in draw(augment, np.zeros((4, 400, 3), np.uint8), label)]
    alone = np.mean([breaks(label[:, x : x + 40], 1) for x in range(361)])
    assert_rate(np.array([breaks(m, 1.0) for m in found]), alone)


# Photometric distortion: a grey ramp, which saturation and hue leave alone, three greenish pixels and a red one.
COLOURS = [(127, 255, 127), (40, 80, 40), (100, 250, 100), (127, 127, 255)]
PROBE = np.concatenate([np.stack([GREY] * 3, 1), np.array(COLOURS, np.uint8)])


@pytest.fixture(scope="module")
def distorted() -> np.ndarray:
    """What becomes of PROBE [n, 260, 3] in 24000 draws."""
    rng = np.random.default_rng(0)
    return np.stack([photometric(PROBE[None].copy(), rng)[0] for _ in range(6 * N)])


@pytest.fixture(scope="module")
def ramp(distorted: np.ndarray) -> np.ndarray:
    assert (distorted[:, :256] == distorted[:, :256, :1]).all()  # grey stays grey
    return distorted[:, :256, 0].astype(int)


def slope(ramp: np.ndarray) -> np.ndarray:
    """The contrast's factor [n], to 1/95: between two greys that no draw clips."""
    return (ramp[:, 135] - ramp[:, 40]) / 95


def test_half_are_brighter_or_darker_by_up_to_32(ramp: np.ndarray) -> None:
    shifts = ramp[:, 100] - 100
    plain = (ramp == np.clip(GREY + shifts[:, None], 0, 255)).all(1)  # no contrast
    assert_rate(plain, 0.5)
    shifts = shifts[plain]
    changed = shifts[shifts != 0]
    known = (changed >= -32) & (changed <= 31)  # truncation rounds down
    assert np.mean(~known) < 1e-3  # a contrast factor just below 1 looks like one level less
    assert_equally_likely((changed - (changed > 0))[known], -32, 30)  # 0 left out
    assert_rate(shifts != 0, 0.5 * 63 / 64)


def test_half_have_another_contrast_by_half_to_three_halves(ramp: np.ndarray) -> None:
    factors = slope(ramp)
    changed = factors[factors != 1]
    assert_uniform(changed, 0.5, 1.5, resolution=1 / 95)
    assert_rate(factors != 1, 0.5 * 0.98)  # one in fifty factors is too near 1 to be seen


@pytest.fixture(scope="module")
def hsv(distorted: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    """Green's and red's hue, saturation and value [n, 2, 3] where brightness and contrast are as they were."""
    untouched = (ramp == GREY).all(1)
    assert_rate(untouched, 0.25)
    pixels = np.ascontiguousarray(distorted[untouched][:, [256, 259]])
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV).astype(int)


def test_half_have_another_saturation_by_half_to_three_halves(hsv: np.ndarray) -> None:
    saturation = hsv[:, 0, 1]
    changed = saturation[saturation != 128]
    assert_uniform(changed / 128, 0.5, 1.5, resolution=2 / 128)
    assert_rate(saturation != 128, 0.5 * 127 / 128)


def test_half_have_another_hue_of_36_steps_round_the_circle(hsv: np.ndarray) -> None:
    shifts = hsv[:, 0, 0] - 60  # green's
    assert_rate(shifts != 0, 0.5 * 35 / 36)
    changed = shifts[shifts != 0]
    assert_equally_likely(changed - (changed > 0), -18, 16)  # -18..17 without 0
    assert np.array_equal(hsv[:, 1, 0], shifts % 180)


def test_contrast_comes_first_or_last_by_a_coin(distorted: np.ndarray, ramp: np.ndarray) -> None:
    factor = slope(ramp)
    pixels = distorted[:, 257:259].astype(float)
    low, high = pixels.min(2), pixels.max(2)  # of each pixel; hue moves neither
    saturation = (high[:, 0] - low[:, 0]) / np.maximum(high[:, 0], 1) / 0.5
    stretched = (factor > 1.06) & (np.abs(saturation - 1) > 0.1) & (np.abs(ramp[:, 100] - 100 * factor) < 2)
    c, s, seen = factor[stretched], saturation[stretched], low[stretched, 1]
    first = 255 * (1 - s * (1 - 100 * c / 255))  # clipped to 255 before the saturation
    last = np.minimum(250 * (1 - 0.6 * s) * c, 255)
    apart = np.abs(first - last) > 14
    was_first = np.abs(seen - first) < np.abs(seen - last)
    error = np.minimum(np.abs(seen - first), np.abs(seen - last))
    assert apart.sum() > 500
    assert np.quantile(error[apart], 0.95) < 8
    assert_rate(was_first[apart], 0.5)


def test_channels_are_scaled_clipped_and_truncated() -> None:
    """The table gives what float32 arithmetic gives, value by value."""
    rng = np.random.default_rng(0)
    for factor, shift in [*zip(rng.uniform(0.5, 1.5, 200), rng.uniform(-32, 32, 200), strict=True), (1.0, 0.0)]:
        want = np.clip(GREY.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)
        assert np.array_equal(scaled(factor, shift), want)
