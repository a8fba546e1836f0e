"""CIRKD's memory: per class a queue of teacher pixels and a queue of teacher regions, equal in all processes.

G images of all processes, N of this one, K classes, D channels, A positions, P entries per image and class.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpkd.transfer import send

from .ranks import gather_ranks, rank

FIRST_ROWS, PIXELS, PIXEL_ANCHORS, REGION_ANCHORS = range(1, 5)  # what a draw is for
STORAGE = {"float32": torch.float32, "float16": torch.float16}


def generator_for(*key: int) -> torch.Generator:
    """Returns a CPU generator that depends on ``key`` alone: draws agree between processes and after a resume."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator("cpu").manual_seed(int(state[0]) >> 1)


def permutation(n: int, generator: torch.Generator) -> Tensor:
    """Returns 0..n-1 in random order."""
    return torch.randperm(n, generator=generator, device="cpu")


def fitting_sizes(pixels: int, regions: int, *, row_bytes: int, max_bytes: float) -> tuple[int, int]:
    """Shrinks the two queue lengths by one factor until all their rows fit.

    Args:
        pixels: wanted length of a class's pixel queue.
        regions: wanted length of a class's region queue.
        row_bytes: bytes of one entry of every class.
        max_bytes: limit of both queues together; 0 sets none.

    Returns:
        The lengths; one that is wanted is at least 1.

    Raises:
        ValueError: not even one entry per class fits.
    """
    wanted = (pixels + regions) * row_bytes
    if max_bytes <= 0 or wanted <= max_bytes:
        return pixels, regions
    sizes = tuple(int(n * max_bytes / wanted) for n in (pixels, regions))
    if any(size < 1 <= n for size, n in zip(sizes, (pixels, regions), strict=True)):
        raise ValueError(
            f"memory limit: {max_bytes / 1e9:g} GB hold no entry per class, one of each queue needs "
            f"{row_bytes / 1e9:g} GB. Raise MAX_GIGABYTES, or set the memory weights to 0."
        )
    return sizes[0], sizes[1]


class ClassQueue(nn.Module):
    """K rings of unit vectors of equal length, in buffers; they start as random unit vectors."""

    rows: Tensor
    pointer: Tensor

    def __init__(
        self,
        num_classes: int,
        size: int,
        channels: int,
        *,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        legacy: bool = False,
    ) -> None:
        """Allocates and fills the rings.

        Args:
            num_classes: K.
            size: entries per class.
            channels: D.
            dtype: floating-point type of the stored vectors.
            generator: random generator that draws the first entries.
            legacy: at the end write the last slots and start over, instead of wrapping around.
        """
        super().__init__()
        self.size, self.legacy = size, legacy
        self.register_buffer("rows", torch.zeros(num_classes, size, channels, dtype=dtype))
        self.register_buffer("pointer", torch.zeros(num_classes, dtype=torch.long))
        if not self.rows.is_meta:
            for rows in self.rows:
                rows.copy_(F.normalize(torch.randn(size, channels, generator=generator, device="cpu"), dim=1))

    @torch.no_grad()
    def enqueue(self, rows: Tensor, counts: Tensor) -> None:
        """Appends entries image by image.

        Args:
            rows: [G, K, P, D].
            counts: [G, K], how many of the P are entries.
        """
        if not self.legacy:
            self._write(rows, counts)
            return
        for image, count in zip(rows, counts, strict=True):
            overflow = self.pointer + count > self.size
            self.pointer.copy_(torch.where(overflow, self.size - count, self.pointer))
            self._write(image[None], count[None])

    def _write(self, rows: Tensor, counts: Tensor) -> None:
        if rows.device.type == "cpu":
            g, k, p, slot = self.slots(counts, rows.shape[2])
            self.rows[k, slot] = rows[g, k, p].to(self.rows.dtype)
        else:
            self.write_all(rows, counts)
        self.pointer.copy_((self.pointer + counts.sum(0)) % self.size)

    def slots(self, counts: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns image, class and entry of what [G, K] counts of ``width`` entries write, and the slots, each once."""
        place, keep = self._places(counts, width)
        g, k, p = keep.nonzero(as_tuple=True)
        return g, k, p, (self.pointer[k] + place[g, k, p]) % self.size

    def _places(self, counts: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Returns [G, K, P]: each entry's place in this call's sequence of its class, and whether it is written."""
        entry = torch.arange(width, device=counts.device)
        place = (counts.cumsum(0) - counts)[..., None] + entry
        # Of more entries than the ring holds only the last remain: no slot is written twice.
        keep = (entry < counts[..., None]) & (place >= (counts.sum(0) - self.size)[:, None])
        return place, keep

    def write_all(self, rows: Tensor, counts: Tensor) -> None:
        """Writes the entries without waiting for a GPU's count of them; the arguments are those of ``enqueue``.

        Rows that are no entries write the last entry of their class again; in a class without entries they write the
        present value.
        """
        place, keep = self._places(counts, rows.shape[2])
        place, keep, entries = (x.transpose(0, 1).flatten(1, 2) for x in (place, keep, rows))  # of each class
        last, index = place.masked_fill(~keep, -1).max(1, keepdim=True)
        index = torch.where(keep, torch.arange(keep.shape[1], device=keep.device), index)
        k = torch.arange(len(index), device=index.device)[:, None]
        slot = (self.pointer[:, None] + place.gather(1, index)) % self.size
        new = entries[k, index].to(self.rows.dtype)
        self.rows[k, slot] = torch.where((last < 0)[..., None], self.rows[k, slot], new)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Returns [K * count, D] float32: the entries at ``count`` random positions, the same ones for every class."""
        positions = send(permutation(self.size, generator)[:count], self.rows.device)
        return self.rows[:, positions].flatten(0, 1).float()


class MemoryBank(nn.Module):
    """Pixel and region queues, filled from all processes' images.

    Everything random depends on (seed, iteration, global number of the image) alone, so the queues are equal in all
    processes and equal to those of one process that holds all images. All processes must hold equally many images.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        *,
        pixels: int,
        regions: int,
        pixels_per_image: int = 16,
        ignore_index: int = 255,
        storage: str = "float32",
        max_gigabytes: float = 1.0,
        seed: int = 0,
        legacy: bool = False,
    ) -> None:
        """Allocates the queues.

        Args:
            num_classes: K.
            channels: D.
            pixels: wanted entries per class of the pixel queue; 0: no such queue.
            regions: the same of the region queue.
            pixels_per_image: P, pixels taken of one image and class.
            ignore_index: label of pixels that are not taken.
            storage: "float32" or "float16".
            max_gigabytes: limit of both queues together (1e9 bytes), 0 for none; longer queues are shortened.
            seed: seed of the first entries and of every draw.
            legacy: take pixels and overflow as CIRKD's code does (see ``_legacy_positions``); for parity tests.

        Raises:
            ValueError: ``storage`` is unknown, or the limit leaves no entry.
        """
        super().__init__()
        if storage not in STORAGE:
            raise ValueError(f"storage: expected one of {sorted(STORAGE)}, got {storage!r}.")
        dtype = STORAGE[storage]
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.pixels_per_image, self.seed, self.legacy = pixels_per_image, seed, legacy
        row_bytes = num_classes * channels * dtype.itemsize
        sizes = fitting_sizes(pixels, regions, row_bytes=row_bytes, max_bytes=max_gigabytes * 1e9)
        first = generator_for(FIRST_ROWS, seed)
        self.pixel, self.region = (
            ClassQueue(num_classes, n, channels, dtype=dtype, generator=first, legacy=legacy) if n else None
            for n in sizes
        )
        self.bytes = sum(sizes) * row_bytes
        self.description = (
            f"{num_classes} classes x ({sizes[0]} pixels + {sizes[1]} regions) x {channels} channels of {storage}: "
            f"{self.bytes / 1e9:.3f} GB in every process and checkpoint"
            + (f", shortened from {pixels} + {regions} by MAX_GIGABYTES" if sizes != (pixels, regions) else "")
        )

    @torch.no_grad()
    def update(self, teacher: Tensor, labels: Tensor, iteration: int) -> None:
        """Enqueues one region and up to P pixels per image and class.

        Args:
            teacher: [N, D, h, w] features.
            labels: [N, h, w].
            iteration: iteration of the training run.
        """
        with torch.autocast(teacher.device.type, enabled=False):
            unit = F.normalize(teacher.float(), dim=1).flatten(2).transpose(1, 2)  # [N, A, D]
            classes = torch.where(labels == self.ignore_index, self.num_classes, labels.long()).flatten(1)
            member = unit.new_zeros(*classes.shape, self.num_classes + 1)
            member = member.scatter_(2, classes[..., None], 1.0)[..., :-1].contiguous()  # [N, A, K]
            counts = member.sum(1).long()  # [N, K]
            if self.region is not None:
                sums = torch.stack([members.T @ rows for members, rows in zip(member, unit, strict=True)])
                _enqueue(self.region, F.normalize(sums, dim=2)[:, :, None], counts.clamp(max=1))
            if self.pixel is not None:
                choose = self._legacy_positions if self.legacy else self._positions
                positions = choose(classes, counts, iteration).flatten(1)[..., None]  # [N, K * P, 1]
                rows = unit.gather(1, positions.expand(-1, -1, unit.shape[2]))
                rows = rows.view(len(rows), self.num_classes, self.pixels_per_image, -1)
                _enqueue(self.pixel, rows, counts.clamp(max=self.pixels_per_image))

    def pixel_anchors(self, per_class: int, iteration: int) -> Tensor:
        """Returns [K * per_class, D], fresh in every iteration."""
        assert self.pixel is not None
        return self.pixel.draw(per_class, generator_for(PIXEL_ANCHORS, self.seed, iteration))

    def region_anchors(self, per_class: int, iteration: int) -> Tensor:
        """Returns [K * per_class, D], fresh in every iteration."""
        assert self.region is not None
        return self.region.draw(per_class, generator_for(REGION_ANCHORS, self.seed, iteration))

    def _image_generator(self, image: int, images: int, iteration: int) -> torch.Generator:
        return generator_for(PIXELS, self.seed, iteration, rank() * images + image)

    def _positions(self, classes: Tensor, counts: Tensor, iteration: int) -> Tensor:
        """Returns [N, K, P]: for each class positions of its own pixels in random order; the first counts are valid."""
        n, a = classes.shape
        order = torch.stack([permutation(a, self._image_generator(i, n, iteration)) for i in range(n)])
        order = send(order, classes.device)
        grouped = order.gather(1, classes.gather(1, order).argsort(dim=1, stable=True))  # sorted by class
        starts = counts.cumsum(1) - counts
        slots = starts[..., None] + torch.arange(self.pixels_per_image, device=classes.device)
        return grouped.gather(1, slots.flatten(1).clamp(max=a - 1)).view_as(slots)

    def _legacy_positions(self, classes: Tensor, counts: Tensor, iteration: int) -> Tensor:
        """Reproduces a defect of CIRKD's code: random indices below the class's pixel count are used as positions."""
        n = len(classes)
        chosen = torch.zeros(n, self.num_classes, self.pixels_per_image, dtype=torch.long)
        for i, row in enumerate(counts.tolist()):
            generator = self._image_generator(i, n, iteration)
            for k, count in enumerate(row):
                taken = permutation(count, generator)[: self.pixels_per_image]
                chosen[i, k, : len(taken)] = taken
        return chosen.to(classes.device)


def _enqueue(queue: ClassQueue, rows: Tensor, counts: Tensor) -> None:
    """Enqueues the entries of all processes, in the order of their ranks."""
    queue.enqueue(torch.cat(gather_ranks(rows)), torch.cat(gather_ranks(counts)))
