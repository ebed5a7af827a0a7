"""What a sweep claims, declared before it runs: which numbers decide, and when the claim holds.

Invariant: a claim is a value - conditions by their axis values, metrics by name, a direction and a margin - and names
only conditions that its sweep plans. What does not live here: deciding it (analysis/claims.py).
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.spec.model import Model, Scalar
from harness.spec.names import Measure, Name

Place = tuple[tuple[str, Scalar], ...]
"""Axis fields and the values they have, as the sweep's axis writes them (a multiple, where the axis is relative)."""
AxisValues = Mapping[str, tuple[Scalar, ...] | None]
"""Axis field -> the values it takes; None where the base decides them."""
MEASURES: tuple[str, ...] = typing.get_args(Measure)
EDL_NUMBERS = ("edl_bits", "edl_bits_per_token", "edl_bits_per_parameter")
"""Excess description length, from the training log; neither more nor less of it is better."""
TRAINING_NUMBERS = ("val_loss", "train_loss_last", *EDL_NUMBERS)
"""Numbers of the training itself that a part may name in place of a metric; they have an `after` alone."""
DRIFT = "drift/"
"""Begins the names of means of the drift panel, `drift/text_set/metric`, which have an `after` alone as well."""

DRIFT_WITH_DIRECTION = (
    *(f"{kl}{place}" for kl in ("kl_base_tuned", "kl_tuned_base") for place in ("", "_first", "_rest")),
    *("argmax_loss", "relative_change"),
)
"""Means of the drift panel of which less is nearer to the base; the others have no best value."""


def is_of_trained(metric: str) -> bool:
    """Return whether a number is of the trained model alone: of its training, or of its drift from the base."""
    return metric in TRAINING_NUMBERS or metric.startswith(DRIFT)


class Quantity(Model):
    """One number of a trial."""

    metric: str
    """A measure, a metric key `suite/task/metric`, one of `TRAINING_NUMBERS`, or a mean of the drift panel."""
    value: Literal["after", "delta"] = "after"
    """On test items: the trained model's score, or that minus the base's."""

    @model_validator(mode="after")
    def _is_known(self) -> Quantity:
        whole = len(self.metric.split("/")) == 3
        if not whole and self.metric not in (*MEASURES, *TRAINING_NUMBERS):
            raise ValueError(
                f"metric is {self.metric!r}, but must be a measure ({', '.join(MEASURES)}), a key suite/task/metric, "
                f"one of {', '.join(TRAINING_NUMBERS)}, or {DRIFT}text_set/metric"
            )
        if is_of_trained(self.metric) and self.value != "after":
            raise ValueError(f"value is {self.value!r}, but must be 'after' for {self.metric}: the base has none")
        return self


class Term(Quantity):
    """The mean of a number under one condition, times a weight."""

    at: Place
    """The condition: every axis of the sweep that takes more than one value, and the value it has."""
    weight: float = 1.0
    arm: str | None = None
    """Which arm; None where the sweep has one."""


def difference(
    metric: str, one: Mapping[str, Scalar], other: Mapping[str, Scalar], *, weight: float = 1.0, arm: str | None = None
) -> tuple[Term, Term]:
    """Return the terms of a number under one condition minus that under another, times a weight.

    Args:
        metric: as of a `Quantity`.
        one: axis field -> value.
        other: the condition that is subtracted.
        weight: of the difference.
        arm: of both; None where the sweep has one.
    """
    return (
        Term(metric=metric, at=tuple(one.items()), weight=weight, arm=arm),
        Term(metric=metric, at=tuple(other.items()), weight=-weight, arm=arm),
    )


class Contrast(Model):
    """A linear combination of condition means, paired by replicate and item."""

    kind: Literal["contrast"] = "contrast"
    terms: tuple[Term, ...] = Field(min_length=1)
    expect: Literal["greater", "less", "equal"]
    """`greater`, `less`: than 0. Supported when the whole 95 % interval is; contradicted when it lies wholly on the
    other side or wholly within the margin. `equal`: supported when the interval lies within the margin, contradicted
    when it lies wholly outside."""
    margin: float = Field(ge=0.0)
    """The smallest effect that matters, in the metric's unit."""

    @model_validator(mode="after")
    def _can_be_decided(self) -> Contrast:
        if self.expect == "equal" and self.margin == 0:
            raise ValueError("margin must be above 0 for expect 'equal': no interval has width 0")
        if any(term.weight == 0 for term in self.terms):
            raise ValueError("weight must not be 0: such a term says nothing")
        return self


class OptimumRatio(Quantity):
    """How far apart the best values of one axis are between two levels of another."""

    kind: Literal["optimum_ratio"] = "optimum_ratio"
    axis: str
    """A numeric axis, such as train.learning_rate; its absolute values are compared."""
    between: str
    numerator: Scalar
    """Levels of `between`: the ratio is the best value at `numerator` over that at `denominator`."""
    denominator: Scalar
    low: float = Field(gt=0)
    """Supported when the 95 % interval of the ratio lies within [low, high], contradicted when wholly outside."""
    high: float = Field(gt=0)
    at: Place = ()
    arm: str | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> OptimumRatio:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low!r}, but must be below high {self.high!r}")
        drift = self.metric.startswith(DRIFT) and self.metric.rsplit("/", 1)[-1] not in DRIFT_WITH_DIRECTION
        if self.metric in EDL_NUMBERS or drift:
            known = f"; of drift that is {', '.join(DRIFT_WITH_DIRECTION)}" if drift else ""
            raise ValueError(f"metric is {self.metric!r}, but must be one of which more or less is better{known}")
        return self


class Line(Model):
    """Whether one number lies on a straight line against another, over conditions and replicates."""

    kind: Literal["line"] = "line"
    x: Quantity
    y: Quantity
    min_r2: float = Field(gt=0.0, lt=1.0)
    """Supported when the lower bound of R^2 exceeds it and the slope has the expected sign; contradicted when the upper
    bound is below it or the slope's interval has the other sign."""
    slope: Literal["positive", "negative"]
    at: Place = ()
    """Only conditions with these axis values; empty is all."""
    arm: str | None = None
    """Only this arm; None where the sweep has one."""


class _Along(Quantity):
    """A number followed along one numeric axis."""

    axis: str
    """A numeric axis; its absolute values are the levels."""
    at: Place = ()
    """Every other axis of the sweep that takes more than one value, and the value it has."""
    arm: str | None = None


class Monotone(_Along):
    """Whether a number rises or falls along an axis, by Spearman's rank correlation within each replicate."""

    kind: Literal["monotone"] = "monotone"
    expect: Literal["rising", "falling"]
    """Supported when the whole 95 % interval of the mean correlation has this sign; contradicted when it has the other
    or lies wholly within the margin."""
    margin: float = Field(ge=0.0, lt=1.0)
    """The smallest correlation that matters."""


class Hump(_Along):
    """Whether a number has an extremum inside the levels of an axis: a parabola in the axis's logarithm.

    Levels at or below 0 have no logarithm and are left out.
    """

    kind: Literal["hump"] = "hump"
    expect: Literal["peak", "valley"]
    """A peak is supported when the 95 % intervals of the slope at the lowest and at the highest level lie wholly above
    and below 0, so that it rises first and falls last, and a level inside beats both ends. Contradicted when one of the
    two slopes wholly has the other sign, or when the bend's interval has or lies wholly within the margin."""
    margin: float = Field(ge=0.0)
    """The smallest bend that matters, in the number's unit: how far the parabola's middle lies from its ends' mean."""


class PowerLaw(_Along):
    """Whether a number follows c + a x^b along an axis with an exponent b in a range."""

    kind: Literal["power_law"] = "power_law"
    low: float
    high: float
    """Supported when the 95 % interval of the exponent lies within [low, high] and that of a has the sign by which the
    number goes the expected way; contradicted when the one lies wholly outside or the other has the other sign."""
    expect: Literal["rising", "falling"]

    @model_validator(mode="after")
    def _is_a_range(self) -> PowerLaw:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low!r}, but must be below high {self.high!r}")
        if self.low <= 0 <= self.high:
            raise ValueError(f"low is {self.low!r}, but must have the sign of high {self.high!r}: x^0 is a constant")
        return self


Part = Annotated[Contrast | OptimumRatio | Line | Monotone | Hump | PowerLaw, Field(discriminator="kind")]
Along = Monotone | Hump | PowerLaw
MIN_LEVELS = {"monotone": 3, "hump": 3, "power_law": 4}
"""Levels that a shape needs to be more than its own definition."""


def _is_none(value: object) -> bool:
    return value is None


class Claim(Model):
    """One claim: supported if every part is, contradicted if any part is, else undecided."""

    id: Name
    statement: str = Field(min_length=1)
    source: str = Field(min_length=1)
    published: str
    """The published numbers, or that there are none."""
    parts: tuple[Part, ...] = Field(min_length=1)
    published_value: float | None = Field(default=None, exclude_if=_is_none)
    """A published number of the same kind as the estimate of part `published_part`; it decides nothing. Neutral: a
    record of a claim without one is as it was before there was this field, and so for the next two."""
    published_unit: str | None = Field(default=None, exclude_if=_is_none)
    """What it is a value of, with its unit: `ratio of best learning rates`."""
    published_part: int | None = Field(default=None, ge=0, exclude_if=_is_none)
    """Number of the part, from 0; None is the first."""

    @model_validator(mode="after")
    def _published_value_is_of_something(self) -> Claim:
        if self.published_value is None and (self.published_unit is not None or self.published_part is not None):
            raise ValueError("published_value is None, but must be given with published_unit or published_part")
        if self.published_value is not None and not self.published_unit:
            raise ValueError("published_unit is missing, but must say what published_value is a value of")
        if (self.published_part or 0) >= len(self.parts):
            raise ValueError(f"published_part is {self.published_part!r}, but must be below {len(self.parts)}")
        return self


def same_value(one: Scalar, other: Scalar) -> bool:
    """Return whether two axis values are one: 1 is 1.0, but not True."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


# -- against the sweep ------------------------------------------------------------------------------------------------


def problems(claim: Claim, axes: AxisValues, arms: tuple[str, ...], measures: tuple[str, ...]) -> Iterator[str]:
    """Yield one sentence for each thing that a claim names and its sweep has not."""
    for number, part in enumerate(claim.parts):
        where = f"claims {claim.id} parts.{number}"
        for quantity in _quantities(part):
            if quantity.metric in MEASURES and quantity.metric not in measures:
                yield f"{where} metric is {quantity.metric!r}, but must be among the sweep's measures"
        for place in part.terms if isinstance(part, Contrast) else (part,):
            if (len(arms) > 1 and place.arm is None) or place.arm not in (None, *arms):
                yield f"{where} arm is {place.arm!r}, but must be one of {', '.join(arms)}"
            yield from (f"{where} {problem}" for problem in _place_problems(place.at, axes))
            if free := _free(part, place.at, axes):
                yield f"{where} at names no value of {', '.join(free)}, but must: several conditions fit"
        if isinstance(part, OptimumRatio):
            yield from (f"{where} {problem}" for problem in _optimum_problems(part, axes))
        if isinstance(part, Along):
            yield from (f"{where} {problem}" for problem in _level_problems(part, axes))


def _quantities(part: Part) -> tuple[Quantity, ...]:
    match part:
        case Contrast():
            return part.terms
        case Line():
            return (part.x, part.y)
        case _:
            return (part,)


def _place_problems(at: Place, axes: AxisValues) -> Iterator[str]:
    if len({field for field, _ in at}) != len(at):
        yield "at names an axis twice"
    for field, value in at:
        if field not in axes:
            yield f"at names {field}, but must name axes of the sweep: {', '.join(axes)}"
        elif (values := axes[field]) is not None and not any(same_value(value, known) for known in values):
            yield f"at says {field} = {value!r}, but must be one of {', '.join(map(repr, values))}"


def _free(part: Part, at: Place, axes: AxisValues) -> list[str]:
    """Return the axes that leave open which condition is meant."""
    if isinstance(part, Line):
        return []
    own = [part.axis, part.between] if isinstance(part, OptimumRatio) else []
    own += [part.axis] if isinstance(part, Along) else []
    named = [*(field for field, _ in at), *own]
    return [field for field, values in axes.items() if field not in named and (values is None or len(values) > 1)]


def _optimum_problems(part: OptimumRatio, axes: AxisValues) -> Iterator[str]:
    if part.axis not in axes:
        yield f"axis is {part.axis!r}, but must be an axis of the sweep: {', '.join(axes)}"
    if part.axis == part.between:
        yield f"between is {part.between!r}, but must be another axis than axis"
    for name in ("numerator", "denominator"):
        yield from (f"{name}: {problem}" for problem in _place_problems(((part.between, getattr(part, name)),), axes))


def _level_problems(part: Along, axes: AxisValues) -> Iterator[str]:
    if part.axis not in axes:
        yield f"axis is {part.axis!r}, but must be an axis of the sweep: {', '.join(axes)}"
    if part.axis in {field for field, _ in part.at}:
        yield f"at names {part.axis}, but must not: it is the axis that the number is followed along"
    if (values := axes.get(part.axis)) is None:
        return
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    usable = numbers if isinstance(part, Monotone) else [value for value in numbers if value > 0]
    if len(usable) < (needed := MIN_LEVELS[part.kind]):
        sign = "" if isinstance(part, Monotone) else " above 0"
        yield f"axis is {part.axis!r}, but must have at least {needed} numbers{sign} for {part.kind}"


def metric_keys(claims: tuple[Claim, ...]) -> frozenset[str]:
    """Return every metric key `suite/task/metric` that claims name, beside measures."""
    quantities = (quantity for claim in claims for part in claim.parts for quantity in _quantities(part))
    return frozenset(q.metric for q in quantities if "/" in q.metric and not is_of_trained(q.metric))


def drift_names(claims: tuple[Claim, ...]) -> tuple[str, ...]:
    """Return the means of the drift panel that claims name, `text_set/metric`, each once."""
    quantities = (quantity for claim in claims for part in claim.parts for quantity in _quantities(part))
    return tuple(dict.fromkeys(q.metric.removeprefix(DRIFT) for q in quantities if q.metric.startswith(DRIFT)))


def training_numbers(claims: tuple[Claim, ...]) -> frozenset[str]:
    """Return the numbers of the training itself that claims name."""
    quantities = (quantity for claim in claims for part in claim.parts for quantity in _quantities(part))
    return frozenset(q.metric for q in quantities if q.metric in TRAINING_NUMBERS)
