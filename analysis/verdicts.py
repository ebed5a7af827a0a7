"""What became of a claim: values, their rows for files, their words for people.

Invariant: an undecided part says why, and an estimate that is not known is nan. What does not live here: deciding
(claims.py, curves.py), markup (render.py).
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
from harness.spec import Contrast, OptimumRatio, Part, Place, Quantity

if TYPE_CHECKING:
    import pandas as pd

NAN = math.nan
Decision = Literal["supported", "contradicted", "undecided"]
NOT_POWERED = "undecided, not powered"


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
    kind: Literal["contrast", "optimum_ratio", "line"]
    verdict: Decision
    note: str = ""
    is_powered: bool = True
    """False where it is undecided and the minimum detectable effect exceeds the margin."""
    estimate: float = NAN
    """The combination, the ratio of the optima, or R^2."""
    low: float = NAN
    high: float = NAN
    mde: float = NAN
    """Of a contrast in its unit, of a ratio as a factor."""
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

    @property
    def label(self) -> str:
        """The verdict in words."""
        return self.verdict if self.is_powered else NOT_POWERED

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
            values = asdict(part)
            values["worlds"] = json.dumps(values["worlds"])
            rows.append(about | {"part": number, "label": part.label} | values)
    return pd.DataFrame(rows)


def to_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as JSON values; nan stays nan, as Python's JSON writes it."""
    return [asdict(verdict) for verdict in verdicts]


def from_json(values: Sequence[dict[str, Any]]) -> tuple[Verdict, ...]:
    """Return what `to_json` was given."""
    return tuple(
        Verdict(
            **{name: value for name, value in one.items() if name not in ("parts", "verdict")},
            parts=tuple(
                PartVerdict(**part | {"worlds": tuple(WorldEstimate(**world) for world in part["worlds"])})
                for part in one["parts"]
            ),
        )
        for one in values
    )


# -- words ------------------------------------------------------------------------------------------------------------


def interval(part: PartVerdict) -> str:
    """Return a part's estimate with its interval: +0.048 [+0.006, +0.090]; a ratio and R^2 carry no sign."""
    is_contrast = part.kind == "contrast"
    estimate = numbers.score(part.estimate, signed=is_contrast)
    if not (math.isfinite(part.low) and math.isfinite(part.high)):
        return estimate
    ends = ", ".join(numbers.score(end, signed=is_contrast) for end in (part.low, part.high))
    slope = f", slope {numbers.score(part.slope, signed=True)}" if math.isfinite(part.slope) else ""
    return f"{estimate} [{ends}]{slope}"


def by_world(part: PartVerdict) -> str:
    """Return the estimate of each world, where there are several."""
    if len(part.worlds) < 2:
        return ""
    return "; ".join(f"world {w.world}: {interval(replace(part, **_ends(w)))}" for w in part.worlds)


def _ends(world: WorldEstimate) -> dict[str, float]:
    return {"estimate": world.estimate, "low": world.low, "high": world.high}


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
    return f"{_quantity(part.y)} on a {part.slope} line in {_quantity(part.x)}{where}, R^2 > {part.min_r2:g}"


def _weight(weight: float) -> str:
    return "" if abs(weight) == 1 else f"{abs(weight):g} x"


def _quantity(quantity: Quantity) -> str:
    return quantity.metric if quantity.value == "after" else f"delta {quantity.metric}"


def _place(at: Place, arm: str | None) -> str:
    pairs = [f"{_leaf(name)}={format_value(value)}" for name, value in at] + ([arm] if arm else [])
    return f"({', '.join(pairs)})" if pairs else ""


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]
