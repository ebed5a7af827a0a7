"""What is measured of the trained model alone, besides its scores.

Invariant: a probe moves neither training nor any score, and none is asked for by default, so that a spec without one
is the spec it was before there were any. What does not live here: measuring (harness/evals/probes.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.errors import nearest
from harness.spec.evals import EvalSpec
from harness.spec.metrics import metrics_of
from harness.spec.model import Model

Weight = Annotated[float, Field(ge=0.0, le=1.0)]


class ProbeSpec(Model):
    """Which probes run; neutral at every default."""

    during: tuple[str, ...] = ()
    """Keys of tasks whose val items are scored before training and every `train.eval_every` steps."""
    during_items: int | None = Field(default=None, ge=1)
    """The most val items of each; None is all. A larger number contains the smaller one's."""
    drift: Literal["off", "on"] = "off"
    """on compares the trained model with its base: divergence on new-task and neutral texts, entropy, weights."""
    drift_texts: int = Field(default=64, ge=1)
    """Texts of each kind that drift is measured on."""
    interpolation: tuple[Weight, ...] = ()
    """Weights w at which base + w (tuned - base) is scored on primary slices."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> ProbeSpec:
        for name in ("during", "interpolation"):
            held: tuple[object, ...] = getattr(self, name)
            if len(set(held)) != len(held):
                raise ValueError(f"probes.{name} is {held!r}, but must not repeat a value")
        return self


def problems(probes: ProbeSpec, evals: EvalSpec, eval_every: int, early_stopping_on: str | None) -> Iterator[str]:
    """Yield one sentence for each probe that the rest of a trial leaves no room for.

    Args:
        probes: what is asked for.
        evals: the slices that there are.
        eval_every: `train.eval_every`.
        early_stopping_on: `train.early_stopping_on`.
    """
    keys = {task.key: task for task in evals.tasks}
    for key in probes.during:
        if key not in keys:
            yield f"probes.during names {key!r}, but must name tasks of evals.tasks.{nearest(key, keys)}"
    if probes.during and evals.val_share == 0:
        yield f"probes.during is {probes.during!r}, but must be () where evals.val_share is 0: there are no val items"
    if probes.during and eval_every == 0:
        yield f"probes.during is {probes.during!r}, but must be () where train.eval_every is 0; set that to steps"
    if early_stopping_on is not None:
        yield from _stopping_problems(early_stopping_on, probes, evals)


def _stopping_problems(metric_key: str, probes: ProbeSpec, evals: EvalSpec) -> Iterator[str]:
    keys = {task.key: task for task in evals.tasks}
    task_key, _, metric = metric_key.rpartition("/")
    if evals.val_share == 0:
        yield f"train.early_stopping_on is {metric_key!r}, but must be None where evals.val_share is 0"
    if task_key not in probes.during:
        yield (
            f"train.early_stopping_on is {metric_key!r}, but must be a metric of a task in probes.during"
            f" ({', '.join(probes.during) or 'none'}); add its task there"
        )
    elif task_key in keys and metric not in metrics_of(keys[task_key]):
        known = metrics_of(keys[task_key])
        yield (
            f"train.early_stopping_on is {metric_key!r}, but must end in one of {', '.join(known)}."
            f"{nearest(metric, known)}"
        )
