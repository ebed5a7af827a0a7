"""Every condition's change of every measure with its interval, and the margins that the sweep's claims declare.

Invariant: one row a condition, in plan order. What does not live here: the intervals (tables.py), single slices
(forest_slices.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import draw_forest
from analysis.points import FigureData, intervals_sentence, measure_titles, path_label, population, row_labels
from harness.records.schema import SweepRecord
from harness.spec import Contrast

COLUMNS = [
    "condition", "target", "delta", "low", "high", "kind", "num_seeds", "num_items", "lower_is_better", "trial_ids",
]  # fmt: skip


def points(context: Context) -> list[FigureData] | str:
    """Return each condition's change of each measure with its interval, or why not."""
    about = "Change of every measure, after minus before."
    return forest(context, "forest", list(context.record.measures), about, measure_titles(context.effects))


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel a measure, one row a condition."""
    return draw_forest(data, width)


def forest(
    context: Context, name: str, targets: Sequence[str], about: str, titles: dict[str, str]
) -> list[FigureData] | str:
    """Return the changes of some targets as a figure, or why not.

    Args:
        context: the sweep.
        name: of the figure.
        targets: measures, or metric keys of primary slices; a panel each.
        about: what the caption begins with.
        titles: `title/<target>` -> the panel's name.
    """
    effects = context.effects
    changes = effects.loc[effects["target"].isin(targets) & effects["delta"].notna(), COLUMNS]
    if changes.empty:
        return "no condition has a known change"
    margins = margins_of(context.record)
    changes = changes.assign(margin=[margins.get(target) for target in changes["target"]]).astype({"margin": float})
    dotted = " Dotted: the margin that a claim declares." if changes["margin"].notna().any() else ""
    figure = FigureData(
        name,
        "forest",
        changes.rename(columns={"target": "measure"}).merge(row_labels(context.record, context.frame), on="condition"),
        f"{about} Open marks: one seed, items only.{dotted} {intervals_sentence(context)} "
        f"{population(context.frame, effects)}",
        {"rows": path_label(context.record)} | titles,
        is_wide=changes["target"].nunique() > 1,
    )
    return [figure]


def margins_of(record: SweepRecord) -> dict[str, float]:
    """Return metric -> the smallest margin above 0 of the contrasts that are made of this metric alone."""
    found: dict[str, float] = {}
    for part in (part for claim in record.claims for part in claim.parts if isinstance(part, Contrast)):
        metrics = {term.metric for term in part.terms}
        if len(metrics) == 1 and part.margin > 0:
            metric = metrics.pop()
            found[metric] = min(part.margin, found.get(metric, part.margin))
    return found
