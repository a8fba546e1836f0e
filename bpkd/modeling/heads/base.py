"""What all heads share: the classifier and its dropout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class SegHead(nn.Module):
    """Base of heads: a subclass turns the backbone's maps into one map, this class turns that into scores.

    The classifier is named `conv_seg` as in OpenMMLab's networks.
    """

    def __init__(self, *, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        """Builds the classifier.

        Args:
            channels: channels of the map that enters the classifier.
            num_classes: number of classes.
            dropout: probability with which a whole channel is dropped in training.
        """
        super().__init__()
        self.channels, self.num_classes = channels, num_classes
        self.align_corners = False
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.dropout = nn.Dropout2d(dropout) if dropout > 0 else nn.Identity()
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        if self.conv_seg.bias is not None:
            nn.init.zeros_(self.conv_seg.bias)

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Maps the backbone's stages to [N, channels, h, w]."""
        raise NotImplementedError

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns (logits [N, K, h, w], the map [N, channels, h, w] they were read from, before dropout)."""
        decoded = self.decode(features)
        return self.conv_seg(self.dropout(decoded)), decoded


def pick_stage(name: str, shapes: Mapping[str, object], key: str) -> str:
    """Returns ``name`` if the backbone has such a stage.

    Raises:
        ValueError: it has not; the message lists the stages.
    """
    if name not in shapes:
        raise ValueError(f"{key}: expected one of {', '.join(shapes)}, got {name!r}.")
    return name
