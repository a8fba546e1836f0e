"""Networks of other projects as `DenseModel`: any nn.Module, and Detectron2's own segmentors."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from bpkd.config.imports import not_found
from bpkd.modeling.base import DenseModel, dense_options
from bpkd.structures import SegOutput


@META_ARCH_REGISTRY.register()
class ModuleSegmentor(DenseModel):
    """Any nn.Module that maps normalised images [N, 3, H, W] to logits.

    The module returns a tensor [N, K, h, w], a mapping with ``out`` (and ``aux``, used in training), as torchvision's
    segmentation networks do, or a `SegOutput`. The logits may have any size h, w.
    """

    @configurable
    def __init__(self, *, network: nn.Module, auxiliary_weight: float = 0.4, **options: Any) -> None:
        """Wraps ``network``; ``options`` are arguments of `DenseModel`."""
        super().__init__(**options)
        self.network = network
        self.auxiliary_weight = auxiliary_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds the network by calling MODEL.MODULE.FACTORY with MODEL.MODULE.KWARGS."""
        factory, kwargs = load_factory(cfg.MODEL.MODULE.FACTORY), dict(cfg.MODEL.MODULE.KWARGS)
        _check_arguments(factory, kwargs)
        return {
            "network": factory(**kwargs),
            "auxiliary_weight": cfg.MODEL.AUX_HEAD.LOSS_WEIGHT,
            **dense_options(cfg),
        }

    def predict(self, images: Tensor) -> SegOutput:
        """Maps normalised images [N, 3, H, W] to scores.

        Raises:
            TypeError: the module returns another type than described in the class.
        """
        output = self.network(images)
        if isinstance(output, SegOutput):
            return output
        if isinstance(output, Tensor):
            return SegOutput(output)
        if isinstance(output, Mapping) and "out" in output:
            return SegOutput(output["out"], output.get("aux") if self.training else None)
        got = list(output) if isinstance(output, Mapping) else type(output).__name__
        raise TypeError(
            f"MODEL.MODULE.FACTORY: expected a module that returns a tensor, a mapping with 'out' or a SegOutput, got "
            f"{got}. Wrap it in a module that picks its logits."
        )

    def losses(self, output: SegOutput, target: Tensor) -> dict[str, Tensor]:
        """Returns ``loss_ce`` and, where the module has an auxiliary output, ``loss_aux`` times its weight."""
        terms = super().losses(output, target)
        if output.aux is not None and self.auxiliary_weight:
            terms["loss_aux"] = self.auxiliary_weight * self.pixel_loss(output.aux, target)
        return terms


class Detectron2Segmentor(DenseModel):
    """Wraps Detectron2's own `SemanticSegmentor`, or any model with ``backbone`` and ``sem_seg_head.layers``.

    Its state dict has the wrapped model's keys.
    """

    def __init__(self, model: Any, **options: Any) -> None:
        """Takes backbone and head of ``model``; ``options`` are arguments of `DenseModel`.

        Raises:
            TypeError: the model has no dense head.
        """
        head = getattr(model, "sem_seg_head", None)
        if not hasattr(model, "backbone") or not hasattr(head, "layers"):
            raise TypeError(
                f"{type(model).__name__}: expected a bpkd DenseModel, or a Detectron2 model with `backbone` and "
                "`sem_seg_head.layers(features)`, got neither. Subclass bpkd.modeling.DenseModel and "
                "implement `predict`."
            )
        super().__init__(**options)
        self.backbone: Any = model.backbone
        self.sem_seg_head: Any = head
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, getattr(model, name).clone(), persistent=False)

    def feature_channels(self) -> dict[str, int]:
        """Returns the channels of the backbone's stages."""
        return {name: shape.channels for name, shape in self.backbone.output_shape().items()}

    def predict(self, images: Tensor) -> SegOutput:
        """Maps normalised images [N, 3, H, W] to scores.

        A backbone with a size divisibility gets the image padded at the right and the bottom; the scores of the
        padding are cut off.
        """
        height, width = int(images.shape[-2]), int(images.shape[-1])
        divisor = max(self.backbone.size_divisibility, 1)
        padded = F.pad(images, (0, -width % divisor, 0, -height % divisor))
        features = self.backbone(padded)
        logits = self.sem_seg_head.layers(features)
        # rounded up, the size that a backbone of this stride makes of the unpadded image
        rows = -(-logits.shape[-2] * height // padded.shape[-2])
        columns = -(-logits.shape[-1] * width // padded.shape[-1])
        return SegOutput(logits[..., :rows, :columns], None, dict(features))


def load_factory(path: str) -> Callable[..., nn.Module]:
    """Imports and returns a callable by its path ``package.module:callable``.

    Raises:
        ValueError: the path has another form, or the callable does not exist.
    """
    module_name, _, name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        advice = not_found(module_name, missing) if f"{module_name}.".startswith(f"{missing}.") else f"({error})."
        raise ValueError(f"MODEL.MODULE.FACTORY: expected 'package.module:callable', got {path!r}: {advice}") from error
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"MODEL.MODULE.FACTORY: expected 'package.module:callable', got {path!r} ({error})."
        ) from error
    if not callable(factory):
        raise ValueError(f"MODEL.MODULE.FACTORY: expected a callable, got {path!r}.")
    return factory


def _check_arguments(factory: Callable[..., nn.Module], kwargs: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some callables of C have none
        return
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"MODEL.MODULE.KWARGS: expected arguments of {signature}, but {error}.") from error


def as_dense(model: nn.Module, cfg: CfgNode) -> DenseModel:
    """Returns ``model`` itself if it is a `DenseModel`, else wrapped in a `Detectron2Segmentor`."""
    if isinstance(model, DenseModel):
        return model
    return Detectron2Segmentor(model, **dense_options(cfg))
