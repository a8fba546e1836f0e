"""What makes an edge, as one value: the training step and the data loader ask the same rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .edge_rows import EdgeMap, EdgeRows
from .edges import class_edges


@dataclass(frozen=True)
class EdgeRule:
    """Arguments of ``class_edges`` that belong to a distiller, not to its images.

    Attributes:
        kernel_size: odd side of the square window in label pixels.
        iterations: passes of the window.
        ignore_index: label that means "ignore".
        ignore_mode: "opaque" or "transparent".
    """

    kernel_size: int
    iterations: int = 1
    ignore_index: int = 255
    ignore_mode: str = "opaque"

    def edges(self, labels: Tensor, num_classes: int, size: tuple[int, int]) -> Tensor | EdgeMap | EdgeRows:
        """Finds the edges of a batch.

        Args:
            labels: [N, H, W] integers in 0..num_classes-1 or ``ignore_index``.
            num_classes: K.
            size: (h, w) to pool to.

        Returns:
            What ``class_edges`` returns: the mask [N, K, h, w] as a map or as rows.

        Raises:
            ValueError: as ``class_edges``.
        """
        return class_edges(
            labels,
            num_classes,
            self.kernel_size,
            size,
            iterations=self.iterations,
            ignore_index=self.ignore_index,
            ignore_mode=self.ignore_mode,
        )

    def sample_rows(
        self, labels: Tensor, *, num_classes: int, canvas: tuple[int, int], size: tuple[int, int]
    ) -> EdgeRows:
        """Finds the edges of one sample as its batch will have them: padded at the right and the bottom.

        Args:
            labels: [H, W] on the CPU.
            num_classes: K.
            canvas: (height, width) of the batch; the padding is ``ignore_index``.
            size: (h, w) to pool to.

        Returns:
            Rows of a mask [1, K, h, w].

        Raises:
            ValueError: as ``class_edges``, or the labels are larger than the canvas.
        """
        below, right = canvas[0] - labels.shape[-2], canvas[1] - labels.shape[-1]
        if below < 0 or right < 0:
            raise ValueError(f"labels: expected at most the canvas {canvas}, got {tuple(labels.shape)}.")
        padded = F.pad(labels[None], (0, right, 0, below), value=self.ignore_index)
        found = self.edges(padded, num_classes, size)
        return EdgeRows.of(found)
