"""Metric: figures from sums over all images, and the metrics that a config can name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .ids import Labels, shape_hint, whole, whole_ids, wrong_id_hint


class Metric:
    """Base class of metrics of label maps: subclasses say what is counted and what is computed from the counts.

    A subclass registers its sums in ``__init__`` (``register_sum``), adds an image's share in ``count`` and turns the
    sums into figures in ``compute``. Sums of parts of a data set add up to those of the whole, so that the figures do
    not depend on how images were shared by processes.

    >>> class Errors(Metric):
    ...     def __init__(self, num_classes, **options):
    ...         super().__init__(num_classes, **options)
    ...         self.register_sum("wrong")
    ...     def count(self, prediction, target, valid):
    ...         self.wrong += ((prediction != target) & valid).sum()
    ...     def compute(self):
    ...         return {"errors": float(self.wrong)}
    >>> metric = Errors(num_classes=3)
    >>> metric.update(torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 255]]))
    >>> metric.compute()
    {'errors': 1.0}
    """

    def __init__(
        self, num_classes: int, *, ignore_index: int = 255, device: torch.device | str = "cpu", **options: Any
    ) -> None:
        """Creates the counters.

        Args:
            num_classes: number of classes K.
            ignore_index: label that takes no part.
            device: device of the sums; images are counted where they are.
            options: further arguments of the evaluator that this metric has no use for.

        Raises:
            ValueError: ``num_classes`` is no whole number of 1 or more, or ``ignore_index`` none.
        """
        self.num_classes, self.ignore_index = whole(num_classes, "num_classes", 1), whole(ignore_index, "ignore_index")
        self.device = torch.device(device)
        self._sums: list[str] = []

    def register_sum(self, name: str, shape: Sequence[int] = (), dtype: torch.dtype = torch.int64) -> None:
        """Creates the attribute ``name``, a tensor of zeros that ``count`` adds to.

        Args:
            name: name of the attribute.
            shape: shape of the tensor; empty: a scalar.
            dtype: type of the tensor; sums of integers are the same in every order of the images.
        """
        setattr(self, name, torch.zeros(tuple(shape), dtype=dtype, device=self.device))
        self._sums.append(name)

    def count(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        """Adds images to the sums.

        Args:
            prediction: class ids [N, H, W], uint8 or int32, in 0..K-1.
            target: labels of the same shape and type in 0..K-1; 0 where they are ignored.
            valid: bool [N, H, W], False where the label is ``ignore_index``.
        """
        raise NotImplementedError

    def compute(self) -> dict[str, Any]:
        """Returns the figures by name: numbers, or lists of one number per class; nan where nothing was measured."""
        raise NotImplementedError

    def update(self, prediction: Labels, target: Labels) -> None:
        """Checks one image or a batch, and counts it.

        Args:
            prediction: integers [H, W] or [N, H, W] in 0..K-1.
            target: labels of the same shape; 0..K-1 or ``ignore_index``.

        Raises:
            ValueError: shapes differ or a value is out of range.
        """
        self.count(*self._checked(prediction, target))

    def _checked(self, prediction: Labels, target: Labels) -> tuple[Tensor, Tensor, Tensor]:
        """Returns prediction, label (0 where ignored) and the valid pixels, [N, H, W]."""
        p, t = (whole_ids(x, what) for x, what in ((prediction, "prediction"), (target, "label")))
        if p.shape != t.shape or p.ndim not in (2, 3):
            raise ValueError(
                f"expected prediction and label of one shape [H, W] or [N, H, W], got {tuple(p.shape)} and "
                f"{tuple(t.shape)}.{shape_hint(p, t)}"
            )
        p, t = (x if x.ndim == 3 else x[None] for x in (p, t))
        valid = t != self.ignore_index
        t = t.masked_fill(~valid, 0)
        for values, what in ((p, "prediction"), (t, "label")):
            self._check(values, what)
        # 8 bits where the ids fit: the window filters run four times as fast.
        dtype = torch.uint8 if self.num_classes <= 255 else torch.int32
        return p.to(dtype), t.to(dtype), valid

    def _check(self, values: Tensor, what: str) -> None:
        if not values.numel():
            return
        low, high = (int(v) for v in values.aminmax())
        if low < 0 or high >= self.num_classes:
            wrong = np.unique(values[(values < 0) | (values >= self.num_classes)].cpu().numpy())
            raise ValueError(
                f"{what}: expected ids 0..{self.num_classes - 1}, got {', '.join(map(str, wrong[:5]))}"
                f"{', ...' if len(wrong) > 5 else ''}. Labels may also be ignore_index {self.ignore_index}."
                + wrong_id_hint(wrong, self.num_classes, self.ignore_index, what)
            )

    def flatten(self, result: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, float]:
        """Returns the figures that run records hold as one dict of numbers; per class ``<figure>-<class>``.

        Args:
            result: figures as ``compute`` returns them.
            class_names: names of the K classes.

        Raises:
            ValueError: a list has not one number per class.
        """
        flat: dict[str, float] = {}
        for name, value in result.items():
            if isinstance(value, list | tuple):
                if len(value) != len(class_names):
                    raise ValueError(
                        f"{type(self).__name__}.compute: {name}: expected a number or a list of one number per class "
                        f"({len(class_names)}), got {len(value)}."
                    )
                flat.update({f"{name}-{c}": v for c, v in zip(class_names, value, strict=True)})
            else:
                flat[name] = value
        return flat

    def reset(self) -> None:
        """Resets all counts."""
        for tensor in self.state_dict().values():
            tensor.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the sums by name: the tensors themselves, not copies."""
        return {name: getattr(self, name) for name in self._sums}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replaces the sums by those of a ``state_dict`` that was made with the same arguments.

        Raises:
            ValueError: names or shapes differ.
        """
        self._check_state(state)
        for name, own in self.state_dict().items():
            own.copy_(state[name])

    def add_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds the sums of a ``state_dict`` that was made with the same arguments.

        Raises:
            ValueError: names or shapes differ.
        """
        self._check_state(state)
        for name, own in self.state_dict().items():
            own += state[name].to(self.device)

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        want, got = ({k: tuple(v.shape) for k, v in s.items()} for s in (self.state_dict(), state))
        if want != got:
            raise ValueError(f"state: expected the counts {want}, got {got}. Make both sides with the same arguments.")

    def protocol(self, *, images: bool = True) -> dict[str, Any]:
        """Returns what the figures depend on beside predictions and labels.

        Args:
            images: whether to include what depends on the images counted so far.
        """
        return {"num_classes": self.num_classes, "ignore_index": self.ignore_index}

    def merge_state(self: M, metrics: Iterable[M]) -> M:
        """Adds the sums of metrics that counted other parts of the data set, and returns itself.

        Raises:
            ValueError: one of them follows another protocol.
        """
        for other in metrics:
            if self.protocol(images=False) != other.protocol(images=False):
                raise ValueError(
                    f"expected one protocol, got {self.protocol(images=False)} and {other.protocol(images=False)}."
                )
            self.add_state(other.state_dict())
        return self

    def reduce(self, all_reduce: Callable[[Tensor], Any]) -> None:
        """Sums the state over processes, each of which has counted its own images.

        Args:
            all_reduce: function that sums one tensor over the processes in place, as ``torch.distributed.all_reduce``
                does. NCCL needs the state on the GPU (``device``).
        """
        for tensor in self.state_dict().values():
            all_reduce(tensor)


M = TypeVar("M", bound=Metric)

METRICS: dict[str, type[Metric]] = {}
"""Metrics that TEST.METRICS can name, by the name of their class."""


def register_metric(metric: type[M]) -> type[M]:
    """Class decorator that makes a metric known to configs (TEST.METRICS) under the name of its class.

    Raises:
        ValueError: another class has the same name.

    >>> class Nothing(Metric):
    ...     pass
    >>> register_metric(Nothing) is METRICS.pop("Nothing")
    True
    """
    known = METRICS.setdefault(metric.__name__, metric)
    if (known.__module__, known.__qualname__) != (metric.__module__, metric.__qualname__):
        raise ValueError(f"register_metric: {metric.__name__} is already the metric of {known.__module__}.")
    METRICS[metric.__name__] = metric  # the newer one where a module was loaded again
    return metric
