"""Learning against forgetting: each series' front in numbers, and series against each other at matched levels.

Invariant: series are compared at equal learning or equal retention, never at equal rates or steps. What does not live
here: the numbers (analysis/tradeoff.py), the drawing of the front (figure_kinds/front.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.forgetting import chances, mean_chance
from analysis.near_front import exponential_table
from analysis.optima import is_lower_measure
from analysis.section import Section, rows_of
from analysis.tradeoff import SIDES, attainment, pairs_table, series_of, series_table


def compute(context: Context) -> Section | str:
    """Return hypervolume, AUC, exchange rate and matched comparisons of `learned` and `retained`."""
    for side in SIDES:
        if not context.primary_keys.get(side):
            return f"the sweep does not score the measure {side!r}"
        if is_lower_measure(context.primary_keys, side):
            return f"less of {side!r} is better here: it has no ideal to measure a front against"
    chance = mean_chance(context.primary_keys["retained"], chances(context.sweep))
    series = series_of(context.frame, context.record.axis_fields, chance)
    if not any(len(points) for one in series for points in one.points.values()):
        return "no replicate has both measures known for every condition of a series"
    tables = {
        "series": rows_of(series_table(series, is_sampled=context.is_sampled)),
        "pairs": rows_of(pairs_table(series, is_sampled=context.is_sampled)),
        "exponential": rows_of(
            exponential_table(context.frame, context.record.axis_fields, is_sampled=context.is_sampled)
        ),
    }
    attained = [
        {"series": one.name, "learned": learned, "retained": retained}
        for one in series
        for learned, retained in attainment(list(one.points.values())).tolist()
    ]
    return Section("tradeoff", "Trade-off", tables | {"chance": chance, "attained": attained})


def files(section: Section) -> dict[str, bytes]:
    """Return the tables, and the corners of what half of the replicates attain, as CSV."""
    return {
        "tradeoff_attained.csv": formats.csv(pd.DataFrame(section.content["attained"])),
        "tradeoff_exponential.csv": formats.csv(pd.DataFrame(section.content["exponential"])),
        "tradeoff_series.csv": formats.csv(pd.DataFrame(section.content["series"])),
        "tradeoff_pairs.csv": formats.csv(pd.DataFrame(section.content["pairs"])),
    }
