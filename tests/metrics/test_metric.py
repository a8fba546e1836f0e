"""Metric, the base class: what a subclass of a few lines gets from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bpkd.metrics import METRICS, Metric, register_metric


class Hits(Metric):
    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(num_classes, **options)
        self.register_sum("hits", (num_classes,))
        self.register_sum("pixels", dtype=torch.float64)

    def count(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        hit = (prediction == target) & valid
        self.hits += torch.bincount(target[hit], minlength=self.num_classes)
        self.pixels += valid.sum()

    def compute(self) -> dict[str, Any]:
        return {"hit": 100 * float(self.hits.sum() / self.pixels), "hits": self.hits.tolist()}


LABEL = np.array([[0, 1, 1], [2, 255, 2]])
GUESS = np.array([[0, 1, 0], [2, 0, 0]])


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, lambda x: torch.as_tensor(x)[None]])
def test_update_takes_arrays_tensors_and_batches(kind: Any) -> None:
    metric = Hits(3)
    metric.update(kind(GUESS), kind(LABEL))
    result = metric.compute()
    assert result == {"hit": pytest.approx(60.0), "hits": [1, 1, 1]}
    assert metric.flatten(result, ("a", "b", "c")) == {"hit": result["hit"], "hits-a": 1, "hits-b": 1, "hits-c": 1}


def test_sums_of_parts_are_those_of_the_whole() -> None:
    whole, parts = Hits(3), [Hits(3), Hits(3)]
    whole.update(GUESS, LABEL)
    for i, part in enumerate(parts):
        part.update(GUESS[i : i + 1], LABEL[i : i + 1])
    assert Hits(3).merge_state(parts).compute() == whole.compute()
    states = [p.state_dict() for p in parts]
    parts[0].reduce(lambda t: t.copy_(sum(s[n] for s in states for n, own in states[0].items() if own is t)))
    assert parts[0].compute() == whole.compute()
    copy = Hits(3)
    copy.load_state_dict(whole.state_dict())
    assert copy.compute() == whole.compute()
    whole.reset()
    assert [float(v.sum()) for v in whole.state_dict().values()] == [0, 0]
    assert copy.compute()["hits"] == [1, 1, 1]


def test_what_does_not_fit_is_refused() -> None:
    metric = Hits(3)
    with pytest.raises(ValueError, match="label: expected ids 0..2, got 7.*ignore_index 255"):
        metric.update(GUESS, np.where(LABEL == 1, 7, LABEL))
    with pytest.raises(ValueError, match="prediction: expected ids 0..2, got 5"):
        metric.update(GUESS + 5 * (GUESS == 2) - 2 * (GUESS == 2), LABEL)
    with pytest.raises(ValueError, match=r"one shape .* got \(1, 3\) and \(2, 3\)"):
        metric.update(GUESS[:1], LABEL)
    with pytest.raises(ValueError, match="state: expected the counts"):
        metric.add_state(Hits(4).state_dict())
    with pytest.raises(ValueError, match="expected one protocol"):
        metric.merge_state([Hits(3, ignore_index=0)])
    with pytest.raises(ValueError, match="num_classes: expected a whole number of 1 or more, got 0"):
        Hits(0)
    assert int(metric.hits.sum()) == 0  # nothing of what was refused is counted


def test_a_name_belongs_to_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpkd.metrics.base.METRICS", known := {})
    assert register_metric(Hits) is Hits
    assert register_metric(Hits) is Hits  # a module that is loaded again
    assert known == {"Hits": Hits}
    with pytest.raises(ValueError, match=r"Hits is already the metric of tests\.metrics\.test_metric"):
        register_metric(type("Hits", (Metric,), {"__module__": "elsewhere"}))
    assert "Hits" not in METRICS
