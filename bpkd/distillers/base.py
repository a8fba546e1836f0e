"""Base classes of distillers: modules from two networks' outputs to named, weighted loss terms."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from bpkd.functional import EdgeRule
from bpkd.structures import DISTILLATION_PREFIX, EdgeMaps, SegOutput

from .adapters import match_size
from .arguments import in_ranges
from .target import Target


class DistillationModule(nn.Module):
    """Interface between a training loop and a module with distillation terms, of one distiller or several.

    Attributes:
        taps: the map that each term compares ("logits" or a feature name) by the term's name, so that a missing map
            or term is an error and not ignored. Empty: not declared, not checked.
        critic_terms: names of terms that train the module's own critic alone and give the student no gradient.
        averages_over_images: whether the loss of a batch is the mean of its images' losses. False: with
            SOLVER.ACCUMULATE the step is not that of the joint batch, and training says so.
        edge_window: (kernel size, passes) of the edge maps that it reads; None: it reads none.
        edge_rule: how it finds the edges of label maps; None: it reads none.
    """

    taps: dict[str, str]
    critic_terms: frozenset[str] = frozenset()
    averages_over_images: bool = True
    edge_window: tuple[int, int] | None = None
    edge_rule: EdgeRule | None = None

    def __init__(self) -> None:
        """Starts without declared terms and edges."""
        super().__init__()
        self.taps = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Takes the critic's terms under their old name, ``own_terms``."""
        super().__init_subclass__(**kwargs)
        if "own_terms" in cls.__dict__:
            warnings.warn(f"{cls.__name__}.own_terms is now called critic_terms.", DeprecationWarning, stacklevel=2)
            cls.critic_terms = cls.__dict__["own_terms"]

    def distillers(self) -> Sequence[DistillationModule]:
        """Returns the distillers that this one combines; none for a single distiller."""
        return ()

    def compared_features(self) -> frozenset[str] | None:
        """Returns the maps that it and its members compare; None where one of them does not declare them."""
        members = self.distillers()
        if not members:
            return frozenset(self.taps.values()) if self.taps else None
        out: frozenset[str] = frozenset()
        for names in (one.compared_features() for one in members):
            if names is None:
                return None
            out |= names
        return out

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns an optimizer of their own for parts that do not share the student's.

        Returns:
            ``{prefix of parameter names: {"optimizer": "adam" or "sgd", "lr": ..., "min_lr": ..., keywords of the
            optimizer}}``; parameters under no prefix are trained as the student is.
        """
        return {}


class Distiller(DistillationModule):
    """Base of all distillers; a new one is a subclass in one file.

    A subclass takes its own keyword arguments with defaults (its config node is made of them, in upper case), passes
    ``**common`` on to this class, sets ``taps`` and implements ``terms``. A term whose weight is 0 is in neither.

    >>> import torch
    >>> class LogitMSE(Distiller):
    ...     def __init__(self, *, weight: float = 1.0, **common):
    ...         super().__init__(**common)
    ...         self.weight, self.taps = weight, {"mse": "logits"}
    ...     def terms(self, student, teacher, target, iteration):
    ...         s, t = self.pair(student, teacher, "logits")
    ...         return {"mse": self.weight * (s - t).square().mean()}
    >>> outputs = [SegOutput(torch.full((1, 2, 4, 4), value)) for value in (1.0, 3.0)]
    >>> LogitMSE(weight=0.5)(*outputs, torch.zeros(1, 4, 4).long())
    {'loss_kd_mse': tensor(2.)}

    Attributes:
        presets: values of arguments by name of the preset; such an argument has the default None, "from the preset".
        parity_arguments: arguments for comparing numbers with other code; they are no config keys.
        renamed_values: values of older configs by argument, and what they are called now.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    parity_arguments: ClassVar[frozenset[str]] = frozenset()
    renamed_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}
    common_arguments: ClassVar[frozenset[str]]
    """Arguments of `Distiller` itself: data set and networks give them, and no config."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lets the constructor refuse arguments outside of the ranges that their annotations give."""
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = in_ranges(cls, cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        num_classes: int = 0,
        ignore_index: int = 255,
        student_channels: Mapping[str, int] | None = None,
        teacher_channels: Mapping[str, int] | None = None,
        features_unavailable_reason: str = "",
    ) -> None:
        """Sets the properties of data set and networks.

        Args:
            num_classes: number of classes K.
            ignore_index: label that means "ignore".
            student_channels: channels of the student's features by name, for aligners.
            teacher_channels: channels of the teacher's features by name.
            features_unavailable_reason: why the teacher gives no features, for messages; empty: it gives some.
        """
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.student_channels = dict(student_channels or {})
        self.teacher_channels = dict(teacher_channels or {})
        self._features_unavailable_reason = features_unavailable_reason

    def forward(
        self, student: SegOutput, teacher: SegOutput, target: Target | Tensor | EdgeMaps, iteration: int = 0
    ) -> dict[str, Tensor]:
        """Computes the loss terms.

        Args:
            student: the student's output.
            teacher: the teacher's output over the same classes; it gets no gradient.
            target: labels [N, H, W], or a `Target` with what else is known.
            iteration: number of the training iteration, for ramps.

        Returns:
            ``{"loss_kd_<term>": scalar}``, weights applied.

        Raises:
            ValueError: class counts differ, or no term is switched on.
            KeyError: a network lacks a map that is compared.
            RuntimeError: a declared term was not delivered.
        """
        terms = self.named_terms(student, teacher, Target.of(target), iteration)
        return {f"{DISTILLATION_PREFIX}{name}": term for name, term in terms.items()}

    def named_terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns what ``terms`` returns, checked; the arguments are those of ``forward``."""
        if student.logits.shape[1] != teacher.logits.shape[1]:
            raise ValueError(
                f"expected one class list, got {student.logits.shape[1]} student and {teacher.logits.shape[1]} "
                "teacher classes. Say how they correspond with TEACHER.CLASS_MAP."
            )
        terms = self.terms(student, teacher, target, iteration)
        if not terms:
            raise ValueError(f"{type(self).__name__}: all weights are 0. Give one, or set DISTILL.METHOD none.")
        absent = sorted(self.taps.keys() - terms.keys())
        if absent:
            raise RuntimeError(f"{type(self).__name__}: terms() did not return {', '.join(absent)}, which taps names.")
        return terms

    def terms(self, student: SegOutput, teacher: SegOutput, target: Target, iteration: int) -> dict[str, Tensor]:
        """Returns the method's own terms, weights applied; names without prefix.

        Args:
            student: the student's output.
            teacher: the teacher's output.
            target: what is known about the batch.
            iteration: number of the training iteration.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement terms().")

    def labels(self, target: Target) -> Tensor:
        """Returns the labels [N, H, W] of a target.

        Raises:
            ValueError: there are none.
        """
        return target.labels_of_pixels(type(self).__name__)

    def channels(self, tap: str, advice: str = "Name another TAP.") -> tuple[int, int]:
        """Returns the student's and the teacher's channels of a feature.

        Args:
            tap: name of the feature.
            advice: end of the message.

        Raises:
            ValueError: one of them is unknown; the message names those that are known.
        """
        if tap not in self.student_channels or tap not in self.teacher_channels:
            teacher = self._features_unavailable_reason or f"teacher has {sorted(self.teacher_channels)}"
            raise ValueError(
                f"{type(self).__name__}, tap {tap!r}: expected a feature of both networks, got: student has "
                f"{sorted(self.student_channels)}, {teacher}. {advice}"
            )
        return self.student_channels[tap], self.teacher_channels[tap]

    @staticmethod
    def pair(student: SegOutput, teacher: SegOutput, tap: str) -> tuple[Tensor, Tensor]:
        """Returns the student's and the teacher's map of one tap, both at the teacher's size, the latter detached.

        Args:
            student: the student's output.
            teacher: the teacher's output.
            tap: "logits" or a feature name.

        Raises:
            KeyError: a network has no such map; the message names those it has.
        """
        maps = []
        for role, output in (("student", student), ("teacher", teacher)):
            found = output.logits if tap == "logits" else output.features.get(tap)
            if found is None:
                names = ", ".join(["logits", *output.features])
                raise KeyError(f"tap {tap!r}: the {role} gives only {names}.")
            maps.append(found)
        return match_size(maps[0], maps[1]), maps[1].detach()


Distiller.common_arguments = frozenset(inspect.signature(Distiller.__init__).parameters)
