from __future__ import annotations

from collections import deque

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bpkd.distillers.memory_bank import ClassQueue, MemoryBank, fitting_sizes, generator_for

K, D = 5, 8


def batch(n: int = 2, size: tuple[int, int] = (9, 7), seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (n, *size), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.2] = 255
    return torch.rand(n, D, *size, generator=g), labels


def bank(**kwargs: object) -> MemoryBank:
    return MemoryBank(K, D, **{"pixels": 40, "regions": 10, "pixels_per_image": 4, **kwargs})  # type: ignore[arg-type]


def test_ring_equals_a_deque() -> None:
    """Many more entries than places, in uneven portions, some portions larger than the ring."""
    g = torch.Generator().manual_seed(0)
    queue = ClassQueue(3, 7, 1, generator=g)
    rings = [deque((float(x) for x in rows), maxlen=7) for rows in queue.rows[..., 0]]
    number = 0
    for _ in range(30):
        counts = torch.randint(0, 5, (4, 3), generator=g)  # 4 images, up to 16 entries
        rows = torch.full((4, 3, 4, 1), float("nan"))
        for image in range(4):
            for k in range(3):
                for p in range(int(counts[image, k])):
                    number += 1
                    rows[image, k, p] = number
                    rings[k].append(float(number))
        written = torch.stack(queue.slots(counts, 4)[1::2]).T.tolist()
        assert len({tuple(x) for x in written}) == len(written)  # else the result depends on the device
        queue.enqueue(rows, counts)
        for k in range(3):
            oldest_first = queue.rows[k, :, 0].roll(-int(queue.pointer[k])).tolist()
            assert oldest_first == list(rings[k])
    assert number > 3 * 7 * 10


@pytest.mark.parametrize("storage", [torch.float32, torch.float16])
def test_writing_without_counting_leaves_the_same_ring(storage: torch.dtype) -> None:
    """What a GPU does; some classes get nothing, some more than the ring holds, and what is no entry is NaN."""
    g = torch.Generator().manual_seed(0)
    queue, other = (ClassQueue(4, 7, 3, dtype=storage, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    for _ in range(30):
        counts = torch.randint(0, 5, (3, 4), generator=g) * torch.randint(0, 2, (4,), generator=g)
        rows = torch.randn(3, 4, 4, 3, generator=g)
        rows[torch.arange(4) >= counts[..., None]] = float("nan")
        other.write_all(rows, counts)
        queue.enqueue(rows, counts)
        assert torch.equal(queue.rows, other.rows)
        other.pointer.copy_(queue.pointer)
    assert queue.rows.isfinite().all()


def test_rings_start_as_unit_vectors_and_keep_them() -> None:
    for storage, tolerance in (("float32", 1e-6), ("float16", 1e-3)):
        memory = bank(storage=storage)
        memory.update(*batch(), iteration=0)
        for queue in (memory.pixel, memory.region):
            assert queue.rows.dtype == getattr(torch, storage)
            assert (queue.rows.float().norm(dim=2) - 1).abs().max() < tolerance
            assert queue.draw(3, torch.Generator()).dtype == torch.float32


def test_pixels_are_of_their_class_distinct_and_not_always_the_same() -> None:
    _, labels = batch(3, (17, 13))
    place = torch.arange(3 * 17 * 13).view(3, 1, 17, 13)
    features = torch.cat([torch.full_like(place, 1), place / 1000], 1)  # the direction names the pixel
    chosen = []
    for iteration in (0, 0, 1):
        memory = MemoryBank(K, 2, pixels=48, regions=0, pixels_per_image=16)
        memory.update(features, labels, iteration)
        got = (memory.pixel.rows[..., 1] / memory.pixel.rows[..., 0] * 1000).round().long()  # [K, 48]
        for k in range(K):
            counts = (labels == k).flatten(1).sum(1).clamp(max=16)
            taken = got[k, : int(counts.sum())]
            assert len(set(taken.tolist())) == len(taken)
            assert (labels.flatten()[taken] == k).all()
            assert torch.equal(taken.div(17 * 13, rounding_mode="floor"), torch.arange(3).repeat_interleave(counts))
        chosen.append(got)
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_legacy_takes_the_first_rows_whatever_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpkd.distillers.memory_bank.permutation", lambda n, generator: torch.arange(n))
    features, labels = batch(1)
    memory = bank(legacy=True)
    memory.update(features, labels, 0)
    first = F.normalize(features, dim=1).flatten(2)[0].T[:4]
    for k in range(K):
        assert torch.equal(memory.pixel.rows[k, :4], first)


def test_region_is_the_direction_of_the_mean() -> None:
    features, labels = batch()
    memory = bank()
    memory.update(features, labels, 0)
    unit = F.normalize(features, dim=1).permute(0, 2, 3, 1)
    for k in range(K):
        for n in range(2):
            want = F.normalize(unit[n][labels[n] == k].mean(0), dim=0)
            assert torch.allclose(memory.region.rows[k, n], want, atol=1e-6)
    assert memory.region.pointer.tolist() == [2] * K


def test_an_absent_class_gets_nothing() -> None:
    features, labels = batch()
    labels[labels == 2] = 255
    memory = bank()
    before = [q.rows[2].clone() for q in (memory.pixel, memory.region)]
    memory.update(features, labels, 0)
    for queue, old in zip((memory.pixel, memory.region), before, strict=True):
        assert int(queue.pointer[2]) == 0
        assert torch.equal(queue.rows[2], old)


def test_draws_share_positions_and_follow_the_iteration() -> None:
    memory = bank()
    memory.pixel.rows[:] = torch.arange(40.0)[:, None]
    anchors = memory.pixel_anchors(6, 3).view(K, 6, D)[..., 0]
    assert (anchors == anchors[:1]).all()
    assert len(set(anchors[0].tolist())) == 6
    assert torch.equal(memory.pixel_anchors(6, 3), memory.pixel_anchors(6, 3))
    assert not torch.equal(memory.pixel_anchors(6, 3), memory.pixel_anchors(6, 4))
    assert memory.pixel_anchors(1000, 0).shape == (K * 40, D)  # no more than there are
    assert generator_for(1, 0, 3).initial_seed() != generator_for(2, 0, 3).initial_seed()


def test_the_seed_is_the_whole_start() -> None:
    torch.manual_seed(1)
    first = bank(seed=3)
    torch.manual_seed(2)
    second = bank(seed=3)
    assert torch.equal(first.pixel.rows, second.pixel.rows)
    assert not torch.equal(first.pixel.rows, bank(seed=4).pixel.rows)


@pytest.mark.parametrize(
    ("classes", "pixels", "regions", "gigabytes"),
    [(19, 20000, 2000, 0.856), (59, 7523, 752, 1.0), (150, 2959, 295, 1.0)],
)
def test_default_sizes_of_the_data_sets(classes: int, pixels: int, regions: int, gigabytes: float) -> None:
    row = classes * 512 * 4
    sizes = fitting_sizes(20000, 2000, row_bytes=row, max_bytes=1e9)
    assert sizes == (pixels, regions)
    assert sum(sizes) * row / 1e9 == pytest.approx(gigabytes, abs=1e-3)
    assert sum(sizes) * row <= 1e9
    assert fitting_sizes(20000, 2000, row_bytes=row, max_bytes=0) == (20000, 2000)


def test_the_limit_holds_for_what_is_allocated() -> None:
    memory = bank(max_gigabytes=4e-6)  # 4000 bytes
    held = sum(q.rows.numel() * q.rows.element_size() for q in (memory.pixel, memory.region))
    assert held == memory.bytes <= 4000
    assert "shortened from 40 + 10" in memory.description
    assert bank(max_gigabytes=4e-6, storage="float16").pixel.size == 40
    assert bank(regions=0).region is None
    with pytest.raises(ValueError, match="hold no entry per class"):
        bank(max_gigabytes=4e-7)
    with pytest.raises(ValueError, match=r"storage: expected one of \['float16', 'float32'\]"):
        bank(storage="int8")


def test_state_dict_restores_the_memory() -> None:
    memory = bank()
    memory.update(*batch(), iteration=0)
    other = bank(seed=9)
    other.load_state_dict(memory.state_dict())
    for m in (memory, other):
        m.seed = 0
        m.update(*batch(seed=1), iteration=1)
    for a, b in zip(memory.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
