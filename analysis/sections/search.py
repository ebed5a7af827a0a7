"""Which axis mattered, and what a budget of conditions buys.

Invariant: a study has importances and no test; a grid has an analysis of variance on test and its budget curve on val.
What does not live here: the numbers (analysis/search.py, analysis/mixed.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from analysis import files as formats
from analysis.context import Context
from analysis.mixed import variance_components
from analysis.optima import is_lower_measure
from analysis.search import budget_curve, conditions_table, factorial_anova, importance
from analysis.section import Section, rows_of
from harness.records.schema import CONFIRM_ARM


def compute(context: Context) -> Section | str:
    """Return importances and budget curves of a study's objectives, or analyses of variance of a grid's measures."""
    importances = _importances(context) if context.is_sampled else pd.DataFrame()
    variances = pd.DataFrame() if context.is_sampled else _of_measures(context, factorial_anova)
    components = pd.DataFrame() if context.is_sampled else _of_measures(context, variance_components)
    budgets = _budgets(context)
    if importances.empty and variances.empty and budgets.empty:
        return "no measure has a value in two conditions"
    tables = {"importances": importances, "variances": variances, "components": components, "budgets": budgets}
    return Section("search", "Axes", {name: rows_of(table) for name, table in tables.items()})


def files(section: Section) -> dict[str, bytes]:
    """Return each table that has rows as CSV."""
    names = {
        "importances": "importance.csv",
        "variances": "anova.csv",
        "components": "mixed.csv",
        "budgets": "budget.csv",
    }
    return {
        file: formats.csv(pd.DataFrame(section.content[name])) for name, file in names.items() if section.content[name]
    }


def _objectives(context: Context) -> list[tuple[str, str, str]]:
    """Return what is optimised: its name, its val column, its direction."""
    if context.is_sampled:
        parts = [(name, *name.split("/", 1), direction) for name, direction in context.record.objectives]
        return [(name, f"val_{value}/{measure}", direction) for name, measure, value, direction in parts]
    lower = {measure: is_lower_measure(context.primary_keys, measure) for measure in context.primary_keys}
    return [(m, f"val_after/{m}", "minimize" if lower[m] else "maximize") for m in context.primary_keys]


def _searched(context: Context) -> pd.DataFrame:
    """Return the trials that the search ran; its winners on fresh seeds are no further conditions."""
    return context.frame[context.frame["arm"] != CONFIRM_ARM] if context.is_sampled else context.frame


def _importances(context: Context) -> pd.DataFrame:
    found = [
        importance(conditions_table(_searched(context), context.record.axis_fields, column), direction).assign(of=name)
        for name, column, direction in _objectives(context)
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _budgets(context: Context) -> pd.DataFrame:
    found = [
        budget_curve(conditions_table(own, context.record.axis_fields, column), direction).assign(of=name, arm=arm)
        for name, column, direction in _objectives(context)
        for arm, own in _searched(context).groupby("arm", sort=False)
    ]
    found = [curve for curve in found if len(curve) > 1]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _of_measures(
    context: Context, table_of: Callable[[pd.DataFrame, Sequence[str], str], pd.DataFrame]
) -> pd.DataFrame:
    """Return a table of every measure's scores after training."""
    found = [
        table_of(context.frame, context.record.axis_fields, f"after/{measure}").assign(of=measure)
        for measure in context.primary_keys
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()
