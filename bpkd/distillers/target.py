"""Input of a distiller beside the two networks' outputs: labels and edges."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from bpkd.functional import EdgeMap, EdgeRule, SparseEdgeMask
from bpkd.structures import EdgeMaps


@dataclass(frozen=True)
class Target:
    """Labels and edges of a batch of N images; every field may be absent, `Target(labels)` is the usual one.

    >>> import torch
    >>> Target(torch.zeros(1, 4, 4).long()).labels_of_pixels("CIRKD").shape
    torch.Size([1, 4, 4])
    >>> Target(edge_map=torch.zeros(1, 1, 4, 4)).labels_of_pixels("CIRKD")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: CIRKD: expected labels of every pixel, got edge maps. It compares pixels by their class; for...
    """

    labels: Tensor | None = None
    """[N, H, W] class of every pixel."""

    sparse_edges: SparseEdgeMask | None = None
    """Edges of the labels that the data loader has found: [N, K, h, w] at the size of the logits."""

    edge_map: Tensor | None = None
    """[N, 1, h, w] or [N, K, h, w] in [0, 1], the share of each position that is edge; where there are no labels."""

    valid: Tensor | None = None
    """[N, 1, h, w] in [0, 1], the share of each position that is image and not padding; None: all of it."""

    @classmethod
    def of(cls, target: Target | Tensor | EdgeMaps) -> Target:
        """Returns a target unchanged, and labels [N, H, W] as a target of labels."""
        if isinstance(target, Target):
            return target
        return cls(target) if isinstance(target, Tensor) else cls(edge_map=target.edge, valid=target.valid)

    def labels_of_pixels(self, reader: str) -> Tensor:
        """Returns the labels [N, H, W].

        Args:
            reader: name of the distiller, for the message.

        Raises:
            ValueError: there are none.
        """
        if self.labels is None:
            raise ValueError(
                f"{reader}: expected labels of every pixel, got edge maps. It compares pixels by their class; for "
                "instances take KD, CWD or BPKD."
            )
        return self.labels

    def edges(self, rule: EdgeRule, logits: Tensor, reader: str) -> Tensor | EdgeMap | SparseEdgeMask:
        """Returns the edges at the size of the logits: those that are given, else those of the labels.

        Args:
            rule: how edges of labels are found.
            logits: [N, K, h, w].
            reader: name of the distiller, for messages.

        Raises:
            ValueError: there are neither labels nor edges, or the loader's edges have another shape than the logits.
        """
        if self.sparse_edges is not None:
            if self.sparse_edges.shape != tuple(logits.shape):
                raise ValueError(
                    f"{reader}: expected edges of the logits' shape {tuple(logits.shape)}, got "
                    f"{self.sparse_edges.shape} from the data loader. DATALOADER.EDGE_MASKS step finds them in the "
                    "training step, at any size."
                )
            return self.sparse_edges
        if self.edge_map is not None:
            return self.edge_map
        if self.labels is None:
            raise ValueError(f"{reader}: expected labels, or edge maps with an edge, got maps without one.")
        return rule.edges(self.labels, logits.shape[1], (logits.shape[2], logits.shape[3]))

    def valid_positions(self, size: tuple[int, int], ignore_index: int) -> Tensor | None:
        """Returns [N, h, w], True where a position is neither ignored nor padding; None where all positions are valid.

        Args:
            size: (h, w); labels are resized to it (nearest).
            ignore_index: label that means "ignore".
        """
        if self.labels is None:
            return None if self.valid is None else self.valid[:, 0] > 0
        small = F.interpolate(self.labels[:, None].float(), size=size, mode="nearest")[:, 0]
        return small != ignore_index


class LabelledEdges(Target):
    """Old name of `Target(labels, sparse_edges)`."""

    def __init__(self, labels: Tensor, rows: SparseEdgeMask) -> None:
        """Warns."""
        warnings.warn("LabelledEdges(labels, rows) is now Target(labels, rows).", DeprecationWarning, stacklevel=2)
        super().__init__(labels, rows)

    @property
    def rows(self) -> SparseEdgeMask | None:
        """Old name of ``sparse_edges``."""
        return self.sparse_edges
