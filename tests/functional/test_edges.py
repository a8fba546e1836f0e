from __future__ import annotations

import pytest
import torch

from bpkd.functional import (
    EdgeMap,
    SparseEdgeMask,
    boundary_kd,
    class_edge_mask,
    class_edges,
    edge_band,
    use_backend,
)
from bpkd.functional.backends import native
from bpkd.functional.backends.native.edges import sparse_mask
from tests.helpers.label_maps import scenes
from tests.helpers.oracle import literal_edge_mask

SIZES = [((64, 64), (8, 8)), ((63, 65), (8, 9)), ((48, 60), (16, 20)), ((33, 29), (33, 29))]


needs_extension = pytest.mark.skipif(native.level() is None, reason="the C++ library is not built")


def backends_here() -> list[str]:
    return ["eager"] + ([] if native.level() is None else ["cpp"])


@pytest.mark.parametrize("num_classes", [2, 19, 150])
@pytest.mark.parametrize("kernel_size", [1, 3, 7, 15])
def test_masks_equal_the_literal_form_bit_for_bit(num_classes: int, kernel_size: int) -> None:
    for (height, width), size in SIZES:
        for name, labels in scenes(num_classes, height, width).items():
            for mode in ("opaque", "transparent"):
                slow = literal_edge_mask(labels, num_classes, kernel_size, size, mode)
                for backend in backends_here():
                    with use_backend(backend):
                        fast = class_edge_mask(labels, num_classes, kernel_size, size, ignore_mode=mode)
                    assert torch.equal(fast, slow), (backend, name, mode, height, size)


def test_more_classes_in_a_window_than_bits_in_a_word() -> None:
    labels = torch.arange(150).repeat(3)[:400].reshape(1, 20, 20)
    for backend in backends_here():
        with use_backend(backend):
            assert torch.equal(class_edge_mask(labels, 150, 15), literal_edge_mask(labels, 150, 15, (20, 20))), backend


@pytest.mark.parametrize("backend", ["eager", pytest.param("cpp", marks=needs_extension)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_label_type_layout_and_ignore_index(backend: str, kind: torch.dtype) -> None:
    base = scenes(31, 96, 72)["noise"]  # every label in many cells: 31 bits and the void's
    base[:, :48] = scenes(31, 96, 72)["blocks"][:, :48]
    want = literal_edge_mask(base, 31, 7, (12, 9))
    labels = torch.where(base == 255, 3, base + (base >= 3).to(base.dtype)).to(kind)  # 3 is ignored, classes move up
    order = [c for c in range(32) if c != 3]
    for view in (labels, labels.transpose(1, 2).contiguous().transpose(1, 2), labels.repeat(1, 2, 1)[:, :96]):
        with use_backend(backend):
            got = class_edge_mask(view, 32, 7, (12, 9), ignore_index=3)
        assert torch.equal(got[:, order], want)
        assert not got[:, 3].any()


@needs_extension
def test_compressed_rows_are_the_mask() -> None:
    for name, labels in scenes(19, 63, 65).items():
        with use_backend("cpp"):
            rows = class_edges(labels, 19, 7, (8, 9))
        assert isinstance(rows, SparseEdgeMask)
        mask = literal_edge_mask(labels, 19, 7, (8, 9))
        assert torch.equal(rows.dense(), mask), name
        for read in (SparseEdgeMask.of(mask), sparse_mask(mask)):
            for field in ("crow", "index", "value"):
                assert torch.equal(getattr(read, field), getattr(rows, field)), (name, field)
    with use_backend("eager"):
        assert torch.equal(class_edges(labels, 19, 7, (8, 9)), mask)


@pytest.mark.parametrize("backend", ["eager", pytest.param("cpp", marks=needs_extension)])
def test_a_map_with_its_counts_is_a_mask_like_any_other(backend: str) -> None:
    mask = literal_edge_mask(scenes(5, 32, 40)["blocks"], 5, 7, (4, 5))
    edges = EdgeMap(mask, (mask > 0).sum((2, 3), dtype=torch.int32))
    teacher = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    assert edges.shape == mask.shape
    assert torch.equal(edges.dense(torch.device("cpu")), mask)
    assert torch.equal(SparseEdgeMask.of(edges).dense(), mask)
    with use_backend(backend):
        assert boundary_kd(2 * teacher, teacher, edges) == boundary_kd(2 * teacher, teacher, mask)


@needs_extension
def test_threads_and_a_tall_image_change_no_bit() -> None:
    labels = scenes(19, 700, 40)["blocks"]  # several bands of rows per image
    want = literal_edge_mask(labels, 19, 31, (350, 20))
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            with use_backend("cpp"):
                assert torch.equal(class_edge_mask(labels, 19, 31, (350, 20)), want)
    finally:
        torch.set_num_threads(threads)


def test_iterations_equal_one_large_window() -> None:
    labels = scenes(19, 40, 40)["blocks"]
    assert torch.equal(class_edge_mask(labels, 19, 3, iterations=4), class_edge_mask(labels, 19, 9))


def test_border_of_the_picture_and_constant_ignore_are_no_edge() -> None:
    assert class_edge_mask(torch.zeros(1, 9, 9, dtype=torch.long), 3, 7).sum() == 0
    assert class_edge_mask(torch.full((1, 9, 9), 255), 3, 7).sum() == 0


def test_ignore_modes_differ_at_an_ignored_region_only() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :, 4:] = 255
    opaque = class_edge_mask(labels, 2, 3)[0, 0]
    assert opaque[:, 3:5].all()
    assert opaque.sum() == 16
    assert class_edge_mask(labels, 2, 3, ignore_mode="transparent").sum() == 0


def test_several_sizes_at_once() -> None:
    labels = scenes(5, 48, 64)["blocks"]
    sizes = [(48, 64), (12, 16), (7, 5)]
    for mask, size in zip(class_edge_mask(labels, 5, 5, sizes), sizes, strict=True):
        assert torch.equal(mask, class_edge_mask(labels, 5, 5, size))


def test_flip_and_class_permutation_commute() -> None:
    labels = scenes(6, 40, 56)["blocks"]
    mask = class_edge_mask(labels, 6, 7, (10, 14))
    assert torch.equal(class_edge_mask(labels.flip(2), 6, 7, (10, 14)), mask.flip(3))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    renamed = torch.where(labels == 255, 255, order[labels.clamp(max=5)])
    assert torch.equal(class_edge_mask(renamed, 6, 7, (10, 14))[:, order], mask)


def test_edge_band_against_a_plain_loop() -> None:
    labels = scenes(4, 17, 19)["blocks"][0]
    labels[5, 5] = 255
    for width in (1, 2):
        band = edge_band(labels, 2 * width + 1)
        for y in range(17):
            for x in range(19):
                window = labels[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
                expected = labels[y, x] != 255 and len(set(window.flatten().tolist()) - {255}) > 1
                assert bool(band[y, x]) == bool(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "odd"),
        ({"iterations": 0}, "at least 1"),
        ({"ignore_mode": "clear"}, "opaque"),
        ({"num_classes": 3}, r"expected 0..2 or ignore_index 255, got \[3\]"),
    ],
)
def test_wrong_arguments_say_what_to_change(arguments: dict, message: str) -> None:
    labels = torch.full((1, 8, 8), 3)
    for backend in backends_here():
        with use_backend(backend), pytest.raises(ValueError, match=message):
            class_edge_mask(labels, **{"num_classes": 4, "kernel_size": 3, **arguments})
        with use_backend(backend), pytest.raises(ValueError, match=message):
            class_edges(labels, **{"num_classes": 4, "kernel_size": 3, "size": (2, 2), **arguments})
    with pytest.raises(ValueError, match="N, H, W"):
        class_edge_mask(labels[0], 4, 3)
