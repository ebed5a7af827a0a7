"""Which axis mattered: importance in a study, analysis of variance in a grid, and what a budget of trials buys.

Invariant: points that a sampler proposed are no random sample: they get a bootstrap of the importance and no interval
of a score. What does not live here: proposing (harness/engine/study.py), contrasts of conditions (tables.py), seeds and
worlds as sources of variance (mixed.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy.special
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis.stats import ALPHA, Floats
from harness.seeding import numpy_stream

NAN = math.nan
NUM_RESAMPLES = 60
NUM_TREES = 64
NUM_TREES_RESAMPLED = 16
"""A forest of fewer trees varies more, so that the bootstrap is wider than that of the estimate, never narrower."""
MIN_CONDITIONS = 10
MIN_TOP = 5
"""Conditions that PED-ANOVA needs among the best."""
LOST = ("DIVERGED", "PRUNED")
"""States that cost a condition its place among the best."""
LOG_FROM = 30.0
"""A positive range whose ends differ by this factor is taken to be searched in logarithms."""

# -- studies ----------------------------------------------------------------------------------------------------------


def conditions_table(frame: pd.DataFrame, fields: Sequence[str], column: str) -> pd.DataFrame:
    """Return one row per condition in plan order: its axis values and `value`, the mean of a column over its trials.

    `value` is nan where a trial of the condition has none: the mean of the rest would be another quantity.
    """
    names = [f"axis.{field}" for field in fields if f"axis.{field}" in frame.columns]
    if frame.empty or column not in frame.columns:
        return pd.DataFrame(columns=["condition", *names, "value", "is_lost"])
    rows = [
        {"condition": condition}
        | {name: own[name].iloc[0] for name in names}
        | {"value": float(own[column].mean(skipna=False)), "is_lost": bool(own["state"].isin(LOST).any())}
        for condition, own in frame.groupby("condition", sort=False)
    ]
    return pd.DataFrame(rows)


def importance(conditions: pd.DataFrame, direction: str) -> pd.DataFrame:
    """Return one row per axis and evaluator: its share of the importance, with a bootstrap over conditions.

    `fanova`: share of the variance of the value that a forest explains by the axis alone; `ped_anova`: share of how
    much the axis' distribution among the best conditions (a tenth, at least five) differs from that among all. Both are
    in [0, 1] and add up to 1 over axes; they answer different questions and may disagree. Intervals are percentiles
    over resamples of conditions. Conditions without a value are left out and counted; an axis that only some conditions
    have has no importance.

    Args:
        conditions: from `conditions_table`.
        direction: maximize or minimize.

    Source: Hutter et al. 2014 (fANOVA); Watanabe et al., arXiv:2304.10255 (PED-ANOVA); both as Optuna computes them.
    """
    columns = ["axis", "evaluator", "importance", "low", "high", "num_conditions", "num_left_out", "note"]
    known = conditions[conditions["value"].notna()].reset_index(drop=True)
    axes = [name for name in known.columns if name.startswith("axis.")]
    params = {name: _distribution(known[name]) for name in axes}
    usable = {name: found for name, found in params.items() if not isinstance(found, str)}
    too_few = f"{len(known)} conditions with a value are too few: {MIN_CONDITIONS} are needed"
    rows: list[dict[str, object]] = []
    for evaluator in ("fanova", "ped_anova"):
        enough = len(known) >= MIN_CONDITIONS and len(usable) > 0 and known["value"].nunique() > 1
        found = _bootstrapped(known, usable, direction, evaluator) if enough else {}
        for name, distribution in params.items():
            note = distribution if isinstance(distribution, str) else "" if enough else too_few
            share, low, high = found.get(name, (NAN, NAN, NAN))
            row = {"axis": name.removeprefix("axis."), "evaluator": evaluator, "importance": share, "low": low}
            counts = {"num_conditions": len(known), "num_left_out": len(conditions) - len(known)}
            rows.append(row | {"high": high, "note": note} | counts)
    return pd.DataFrame(rows, columns=columns)


def _distribution(values: pd.Series) -> Any:
    """Return an axis' range as Optuna knows it, from the values tried; or why it has no importance."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if values.isna().any():
        return "only some conditions have it"
    if values.nunique() < 2:
        return "it was tried at one value"
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        return CategoricalDistribution([_scalar(value) for value in values.drop_duplicates()])
    low, high = float(values.min()), float(values.max())
    is_log = low > 0 and high / low >= LOG_FROM
    if (values == values.round()).all():
        return IntDistribution(int(low), int(high), log=is_log)
    return FloatDistribution(low, high, log=is_log)


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _bootstrapped(
    known: pd.DataFrame, params: Mapping[str, Any], direction: str, evaluator: str
) -> dict[str, tuple[float, float, float]]:
    noise = numpy_stream(0, f"analysis.importance/{evaluator}")
    estimate = _importances(known, params, direction, evaluator, NUM_TREES)
    resamples: list[dict[str, float]] = []
    for _ in range(NUM_RESAMPLES):
        drawn = known.iloc[noise.integers(len(known), size=len(known))]
        if drawn["value"].nunique() > 1:
            resamples.append(_importances(drawn, params, direction, evaluator, NUM_TREES_RESAMPLED))
    ends = 100 * np.array([ALPHA / 2, 1 - ALPHA / 2])
    spread = {name: np.percentile([one[name] for one in resamples], ends) for name in params}
    return {name: (estimate[name], float(spread[name][0]), float(spread[name][1])) for name in params}


def _importances(
    known: pd.DataFrame, params: Mapping[str, Any], direction: str, evaluator: str, num_trees: int
) -> dict[str, float]:
    """Return axis -> importance of these conditions, by an Optuna study that lives in memory."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction)
    study.add_trials([_trial(row, params) for row in known.to_dict("records")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the evaluators say about their own defaults
        found = optuna.importance.get_param_importances(
            study, evaluator=_evaluator(evaluator, len(known), num_trees), params=list(params)
        )
    return {name: float(found[name]) for name in params}


def _trial(row: Mapping[Any, Any], params: Mapping[str, Any]) -> Any:
    from optuna.distributions import IntDistribution
    from optuna.trial import create_trial

    values = {n: int(row[n]) if isinstance(d, IntDistribution) else _scalar(row[n]) for n, d in params.items()}
    return create_trial(params=values, distributions=dict(params), value=float(row["value"]))


def _evaluator(name: str, num_conditions: int, num_trees: int) -> Any:
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    if name == "fanova":
        return FanovaImportanceEvaluator(n_trees=num_trees, seed=0)
    return PedAnovaImportanceEvaluator(target_quantile=min(0.9, max(0.1, MIN_TOP / num_conditions)))


# -- budget -----------------------------------------------------------------------------------------------------------


def expected_best(values: Sequence[float], direction: str = "maximize") -> Floats:
    """Return, (n,), the expected best of k of these values drawn without replacement, for k = 1 to n.

    E_k = sum over ascending v_(i) of v_(i) C(i - 1, k - 1) / C(n, k), unbiased for draws at random; the last one is the
    best of all. Empty for no values; nan where one is unknown.

    Source: Dodge et al., arXiv:1909.03004, in the unbiased form of Tang et al., arXiv:2004.13705.
    """
    sign = 1.0 if direction == "maximize" else -1.0
    ordered = np.sort(sign * np.asarray(values, dtype=float))
    n = len(ordered)
    if np.isnan(ordered).any():
        return np.full(n, NAN)
    place, budget = np.arange(1, n + 1)[None, :], np.arange(1, n + 1)[:, None]
    logs = _log_binomial(place - 1, budget - 1) - _log_binomial(np.array(n), budget)
    return sign * (np.exp(logs) @ ordered)


def _log_binomial(n: Any, k: Any) -> Floats:
    """Return log C(n, k), -inf where k exceeds n."""
    inside = np.where(k <= n, n - k, 0)
    logs = scipy.special.gammaln(n + 1.0) - scipy.special.gammaln(k + 1.0) - scipy.special.gammaln(inside + 1.0)
    return np.where(k <= n, logs, -np.inf)


def budget_curve(conditions: pd.DataFrame, direction: str) -> pd.DataFrame:
    """Return one row per budget k: the expected best of k conditions at random, and the best of the first k.

    A DIVERGED or PRUNED condition cost its budget and won nothing: it counts as the worst value seen. One without a
    value for another reason is left out. `best_of_first` is what the search itself had found, in its order; where a
    sampler chose, `expected_best` is of its conditions in random order, not of random ones.

    Args:
        conditions: from `conditions_table`.
        direction: maximize or minimize.
    """
    used = conditions[conditions["value"].notna() | conditions["is_lost"].astype(bool)]
    known = used["value"].dropna()
    if known.empty:
        return pd.DataFrame(columns=["budget", "expected_best", "best_of_first"])
    is_max = direction == "maximize"
    values = used["value"].fillna(known.min() if is_max else known.max()).to_numpy(dtype=float)
    running = np.maximum.accumulate(values) if is_max else np.minimum.accumulate(values)
    budgets = np.arange(1, len(values) + 1)
    return pd.DataFrame(
        {"budget": budgets, "expected_best": expected_best(values, direction), "best_of_first": running}
    )


# -- grids ------------------------------------------------------------------------------------------------------------


def factorial_anova(frame: pd.DataFrame, fields: Sequence[str], column: str) -> pd.DataFrame:
    """Return the analysis of variance of a grid: one row per axis, pair of axes and replicate, and the residual.

    Trials are the observations, every axis (and the arm, where there are several) is a factor, whatever its type, and
    replicates (world, seed) are blocks, because conditions are paired by them. Type II sums of squares;
    `partial_eta2` = SS / (SS + SS_residual), more is more of what the other terms leave. Pairs are in the model where
    every cell is filled and they leave degrees of freedom. A trial that stands in several arms is one observation, in
    the first of them: twice the same value is no residual, and would make every F too large. Trials without a value are
    left out and counted.

    Args:
        frame: one row per planned trial and arm.
        fields: the varied fields.
        column: what is explained.

    Source: statsmodels' anova_lm.
    """
    columns = ["term", "sum_sq", "df", "f", "p_value", "partial_eta2", "num_trials", "num_left_out", "note"]
    trials = frame if frame.empty else frame.drop_duplicates("trial_id")
    data, factors, reason = grid_design(trials, fields, column)
    if reason:
        return pd.DataFrame([{"term": field, "note": reason} for field in fields], columns=columns)
    pairs = filled_pairs(data, list(factors))
    terms = [*factors, *(f"{a}:{b}" for a, b in pairs), *(["block"] if data["block"].nunique() > 1 else [])]
    table = anova_lm(ols("value ~ " + " + ".join(formula_term(term) for term in terms), data).fit(), typ=2)
    residual = float(table.loc["Residual", "sum_sq"])
    notes = [
        "" if pairs or len(factors) < 2 else "main effects only: not every cell is filled more than once",
        f"{len(frame) - len(trials)} trials that stand in another arm, too, count once"
        if len(trials) < len(frame)
        else "",
    ]
    rows = [
        {
            "term": _readable(str(name), factors),
            "sum_sq": float(row["sum_sq"]),
            "df": float(row["df"]),
            "f": float(row["F"]),
            "p_value": float(row["PR(>F)"]),
            "partial_eta2": NAN if name == "Residual" else _share(float(row["sum_sq"]), residual),
            "num_trials": len(data),
            "num_left_out": len(trials) - len(data),
            "note": "; ".join(filter(None, notes)),
        }
        for name, row in table.iterrows()
    ]
    return pd.DataFrame(rows, columns=columns)


def grid_design(frame: pd.DataFrame, fields: Sequence[str], column: str) -> tuple[pd.DataFrame, dict[str, str], str]:
    """Return the observations, factor -> what it stands for, and why there is no analysis."""
    if frame.empty or column not in frame.columns:
        return frame, {}, f"{column} is not here"
    known = frame[frame[column].notna()]
    sources = {f"axis.{field}": field for field in fields} | {"arm": "arm"}
    # Not astype(str), which leaves what is missing missing: no value is a level like any other.
    levels = {name: known[name].map(str) for name in sources if name in known}
    levels = {name: values for name, values in levels.items() if values.nunique() > 1}
    factors = {f"x{place}": sources[name] for place, name in enumerate(levels)}
    data = pd.DataFrame(dict(zip(factors, levels.values(), strict=True)), index=known.index)
    block = [f"{world}/{seed}" for world, seed in zip(known["world"], known["seed"], strict=True)]
    data = data.assign(value=known[column].astype(float), block=block)
    num_parameters = 1 + sum(data[name].nunique() - 1 for name in factors) + data["block"].nunique() - 1
    if not factors:
        return data, factors, "no axis has two levels with a value"
    if len(data) <= num_parameters or data["value"].nunique() < 2:
        return data, factors, f"{len(data)} trials with a value leave nothing to compare with"
    return data, factors, ""


def filled_pairs(data: pd.DataFrame, factors: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of factors, where every cell of the grid is filled and degrees of freedom are left."""
    pairs = list(combinations(factors, 2))
    num_cells = math.prod(data[name].nunique() for name in factors)
    num_filled = len(data[list(factors)].drop_duplicates())
    main = 1 + sum(data[name].nunique() - 1 for name in factors) + data["block"].nunique() - 1
    more = sum((data[a].nunique() - 1) * (data[b].nunique() - 1) for a, b in pairs)
    return pairs if num_filled == num_cells and len(data) > main + more else []


def formula_term(term: str) -> str:
    """Return a term as a formula writes it, its factors as categories."""
    return ":".join(f"C({name})" for name in term.split(":"))


def _readable(term: str, factors: Mapping[str, str]) -> str:
    if term == "Residual":
        return "residual"
    names = [part.removeprefix("C(").removesuffix(")") for part in term.split(":")]
    return " x ".join(factors.get(name, "replicate") for name in names)


def _share(part: float, residual: float) -> float:
    return part / (part + residual) if part + residual > 0 else NAN
