"""What became of a claim: values, their rows for files, their words for people.

Invariant: an undecided part says why, and an estimate that is not known is nan. What does not live here: deciding
(claims.py, curves.py, shapes.py), markup (render.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from analysis import numbers
from analysis.labels import format_value
from harness.spec import Contrast, Hump, Monotone, OptimumRatio, Part, Place, PowerLaw, Quantity

if TYPE_CHECKING:
    import pandas as pd

NAN = math.nan
Decision = Literal["supported", "contradicted", "undecided"]
Kind = Literal["contrast", "optimum_ratio", "line", "monotone", "hump", "power_law"]
NOT_POWERED = "undecided, not powered"
ITEMS_FIXED = "items fixed"


@dataclass(frozen=True)
class WorldEstimate:
    """A part's estimate in one world."""

    world: int | None
    """None where the sweep is not repeated over worlds."""
    estimate: float
    low: float
    high: float
    num_seeds: int


@dataclass(frozen=True)
class PartVerdict:
    """One part of a claim, decided."""

    text: str
    """What was expected."""
    kind: Kind
    verdict: Decision
    note: str = ""
    is_powered: bool = True
    """False where it is undecided and the minimum detectable effect exceeds the margin."""
    estimate: float = NAN
    """The combination, the ratio of the optima, R^2, the mean rank correlation, the bend, or the exponent."""
    low: float = NAN
    high: float = NAN
    mde: float = NAN
    """In the estimate's unit; of a ratio as a factor. nan where there is no interval, and `note` says why."""
    num_items: int = 0
    """Over all worlds."""
    num_clusters: int = 0
    num_replicates: int = 0
    """Seeds, or pairs of world and seed, that the estimate is made of."""
    num_left_out: int = 0
    """Planned replicates that lack a number."""
    slope: float = NAN
    slope_low: float = NAN
    slope_high: float = NAN
    worlds: tuple[WorldEstimate, ...] = ()
    detail: str = ""
    """What else a fit says: the vertex of a hump, R^2 of a power law."""
    trial_ids: tuple[str, ...] = ()
    """The trials that the estimate is made of, sorted."""

    @property
    def label(self) -> str:
        """The verdict in words."""
        return self.verdict if self.is_powered else NOT_POWERED

    @property
    def has_items_fixed(self) -> bool:
        """Whether the interval is over replicates alone: other items, rows or texts could move the estimate farther."""
        return not self.num_items and math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def replicates(self) -> str:
        """Seeds x worlds: 5, 5 x 2, or 5 + 4 where worlds differ."""
        counts = [str(world.num_seeds) for world in self.worlds]
        if len(counts) < 2:
            return "".join(counts) or "0"
        return f"{counts[0]} x {len(counts)}" if len(set(counts)) == 1 else " + ".join(counts)


@dataclass(frozen=True)
class Verdict:
    """A claim, decided: supported if every part is, contradicted if any part is, else undecided."""

    claim: str
    statement: str
    source: str
    published: str
    parts: tuple[PartVerdict, ...]
    num_open: int = 0
    """Trials of the sweep that have no result yet: the verdict may change."""
    num_trials: int = 0
    published_value: float = NAN
    published_unit: str = ""
    published_part: int = 0
    verdict: Decision = field(init=False)

    def __post_init__(self) -> None:
        decisions = {part.verdict for part in self.parts}
        worst: Decision = "contradicted" if "contradicted" in decisions else "undecided"
        object.__setattr__(self, "verdict", "supported" if decisions == {"supported"} else worst)

    @property
    def label(self) -> str:
        """The verdict in words."""
        powered = all(part.is_powered for part in self.parts)
        return NOT_POWERED if self.verdict == "undecided" and not powered else self.verdict

    @property
    def published_place(self) -> Literal["", "inside", "outside", "no interval"]:
        """Where the published value lies from the interval of its part; empty without a published value."""
        if math.isnan(self.published_value):
            return ""
        part = self.parts[self.published_part]
        if math.isnan(part.low):
            return "no interval"
        return "inside" if part.low <= self.published_value <= part.high else "outside"

    @property
    def published_text(self) -> str:
        """What was published, and where its value lies from ours: 9.8 over 14 models; 9.8 (ratio): outside ours."""
        if math.isnan(self.published_value):
            return self.published
        number = f"part {self.published_part + 1}, " if len(self.parts) > 1 else ""
        place = "no interval of ours" if self.published_place == "no interval" else f"{self.published_place} ours"
        return f"{self.published}; {self.published_value:g} ({number}{self.published_unit}): {place}"

    @property
    def note(self) -> str:
        """What a reader must not overlook."""
        notes = [f"{self.num_open} of {self.num_trials} trials have no result yet"] if self.num_open else []
        return "; ".join(dict.fromkeys([*notes, *(part.note for part in self.parts if part.note)]))


def verdicts_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return one row per claim and part."""
    import pandas as pd

    rows: list[dict[str, object]] = []
    for verdict in verdicts:
        about = {"claim": verdict.claim, "statement": verdict.statement, "source": verdict.source}
        about |= {"published": verdict.published, "claim_verdict": verdict.label, "claim_note": verdict.note}
        for number, part in enumerate(verdict.parts):
            values = asdict(part) | _published_columns(verdict, number)
            values["worlds"] = json.dumps(values["worlds"])
            values["trial_ids"] = " ".join(part.trial_ids)
            shown = {"part": number, "label": part.label, "items_fixed": part.has_items_fixed}
            rows.append(about | shown | values)
    return pd.DataFrame(rows)


def _published_columns(verdict: Verdict, number: int) -> dict[str, object]:
    is_here = bool(verdict.published_place) and verdict.published_part == number
    place = verdict.published_place if is_here else ""
    unit = verdict.published_unit if is_here else ""
    value = verdict.published_value if is_here else NAN
    return {"published_value": value, "published_unit": unit, "published_place": place}


def to_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as JSON values; nan stays nan, as Python's JSON writes it."""
    return [asdict(verdict) for verdict in verdicts]


def from_json(values: Sequence[dict[str, Any]]) -> tuple[Verdict, ...]:
    """Return what `to_json` was given."""
    return tuple(
        Verdict(
            **{name: value for name, value in one.items() if name not in ("parts", "verdict")},
            parts=tuple(
                PartVerdict(
                    **part
                    | {"worlds": tuple(WorldEstimate(**world) for world in part["worlds"])}
                    | {"trial_ids": tuple(part["trial_ids"])}
                )
                for part in one["parts"]
            ),
        )
        for one in values
    )


# -- words ------------------------------------------------------------------------------------------------------------


def interval(part: PartVerdict) -> str:
    """Return a part's estimate with its interval: +0.048 [+0.006, +0.090]; a ratio and R^2 carry no sign.

    An interval over replicates alone says so: +0.900 [+0.850, +0.950] items fixed.
    """
    return _interval(part, f" {ITEMS_FIXED}" if part.has_items_fixed else "")


def _interval(part: PartVerdict, about: str = "") -> str:
    has_sign = part.kind not in ("optimum_ratio", "line")
    estimate = numbers.score(part.estimate, signed=has_sign)
    detail = f", {part.detail}" if part.detail else ""
    if not (math.isfinite(part.low) and math.isfinite(part.high)):
        return estimate + detail
    ends = ", ".join(numbers.score(end, signed=has_sign) for end in (part.low, part.high))
    slope = f", slope {numbers.score(part.slope, signed=True)}" if math.isfinite(part.slope) else ""
    return f"{estimate} [{ends}]{about}{slope}{detail}"


def by_world(part: PartVerdict) -> str:
    """Return the estimate of each world, where there are several."""
    if len(part.worlds) < 2:
        return ""
    return "; ".join(f"world {w.world}: {_interval(replace(part, **_ends(w)))}" for w in part.worlds)


def _ends(world: WorldEstimate) -> dict[str, Any]:
    return {"estimate": world.estimate, "low": world.low, "high": world.high, "detail": "", "slope": NAN}


def part_text(part: Part) -> str:
    """Return what a part expects, in one line."""
    if isinstance(part, Contrast):
        terms = " ".join(
            f"{'-' if term.weight < 0 else '+'}{_weight(term.weight)} {_quantity(term)}{_place(term.at, term.arm)}"
            for term in part.terms
        )
        sign = {"greater": "> 0", "less": "< 0", "equal": "= 0"}[part.expect]
        return f"{terms.removeprefix('+').strip()} {sign}, margin {part.margin:g}"
    if isinstance(part, OptimumRatio):
        ratio = f"{_leaf(part.between)} {format_value(part.numerator)} / {format_value(part.denominator)}"
        where = _place(part.at, part.arm)
        return f"best {_leaf(part.axis)} by {_quantity(part)}{where}, {ratio} in [{part.low:g}, {part.high:g}]"
    where = _place(part.at, part.arm)
    if isinstance(part, Monotone | Hump | PowerLaw):
        return f"{_quantity(part)}{where} {_shape(part)}"
    return f"{_quantity(part.y)} on a {part.slope} line in {_quantity(part.x)}{where}, R^2 > {part.min_r2:g}"


def _shape(part: Monotone | Hump | PowerLaw) -> str:
    axis = _leaf(part.axis)
    match part:
        case Monotone():
            return f"{part.expect} with {axis}, margin {part.margin:g}"
        case Hump():
            return f"has a {part.expect} along {axis}, margin {part.margin:g}"
        case PowerLaw():
            return f"{part.expect} as a power law of {axis}, exponent in [{part.low:g}, {part.high:g}]"


def _weight(weight: float) -> str:
    return "" if abs(weight) == 1 else f"{abs(weight):g} x"


def _quantity(quantity: Quantity) -> str:
    return quantity.metric if quantity.value == "after" else f"delta {quantity.metric}"


def _place(at: Place, arm: str | None) -> str:
    pairs = [f"{_leaf(name)}={format_value(value)}" for name, value in at] + ([arm] if arm else [])
    return f"({', '.join(pairs)})" if pairs else ""


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]
