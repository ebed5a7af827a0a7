"""How much of a grid's variance is the seeds', the worlds' and what is left: a mixed model beside the ANOVA.

Invariant: a component that the data cannot tell is nan with a reason; one that the likelihood puts at its bound is 0
and said to be there. What does not live here: tests of the axes (search.py), intervals of an effect (stats.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas and statsmodels have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.regression.mixed_linear_model import MixedLM

from analysis.search import filled_pairs, formula_term, grid_design

NAN = math.nan
COLUMNS = ["component", "variance", "sd", "share", "num_levels", "num_trials", "num_left_out", "note"]
ONE_SEED = "one seed a world: the world's variance holds that of a seed"
AT_BOUND = 1e-8
"""A smaller share is none: an optimiser only comes near to 0."""


def variance_components(frame: pd.DataFrame, fields: Sequence[str], column: str) -> pd.DataFrame:
    """Return one row for each source of variance of a grid's scores: `seed`, `world` if there are several, `residual`.

    score ~ axes (and arms, and their pairs where every cell is filled) + (1 | world) + (1 | seed), by restricted
    maximum likelihood. A seed is nested in its world, whose people and rows are other ones. `variance` and its root
    `sd` are those of one trial; `share` is of the sum of the components, so that the axes count in none. In a balanced
    grid they equal the estimators by expected mean squares wherever those are above 0. Population and what is left out:
    as of `search.factorial_anova`. nan with a reason below two replicates, where axes cannot be told apart or explain
    everything, and where the fit does not converge.

    Args:
        frame: one row per planned trial and arm.
        fields: the varied fields.
        column: what is explained.

    Source: Patterson and Thompson 1971 (REML); statsmodels' MixedLM.
    """
    trials = frame if frame.empty else frame.drop_duplicates("trial_id")
    data, factors, reason = grid_design(trials, fields, column)
    if reason:
        return pd.DataFrame([{"component": "residual", "note": reason}], columns=COLUMNS)
    data = data.assign(world=trials.loc[data.index, "world"].map(str))
    names = list(factors)
    terms = [*names, *(f"{a}:{b}" for a, b in filled_pairs(data, names))]
    found, notes = _components(data, "value ~ " + " + ".join(map(formula_term, terms)))
    total = sum(found.values())
    levels = {"seed": data["block"].nunique(), "world": data["world"].nunique(), "residual": len(data)}
    rows = [
        {"component": name, "variance": value, "sd": math.sqrt(value), "share": value / total if total > 0 else NAN}
        | {"num_levels": levels[name], "num_trials": len(data), "num_left_out": len(trials) - len(data)}
        | {"note": "; ".join(notes)}
        for name, value in found.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _components(data: pd.DataFrame, formula: str) -> tuple[dict[str, float], list[str]]:
    """Return component -> variance, and what is to be said of the fit."""
    num_blocks, num_worlds = data["block"].nunique(), data["world"].nunique()
    names = ["seed"] * (num_blocks > num_worlds or num_worlds == 1) + ["world"] * (num_worlds > 1) + ["residual"]
    unknown = dict.fromkeys(names, NAN)
    if num_blocks < 2:
        return unknown, ["one replicate: nothing tells a seed's variance"]
    spread = float(data["value"].std())
    standard = data.assign(value=(data["value"] - data["value"].mean()) / spread)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is in `converged`, and in a component at its bound
            model = _model(standard, formula, names)
            design = np.asarray(model.exog)
            if np.linalg.matrix_rank(design) < design.shape[1]:
                return unknown, ["the axes cannot be told apart in this grid"]
            fit: Any = model.fit(reml=True, method=["powell"], ftol=1e-13)
    except np.linalg.LinAlgError as error:
        return unknown, [f"the fit failed: {error}"]
    values = [*np.atleast_1d(fit.vcomp), float(fit.cov_re.iloc[0, 0]), float(fit.scale)]
    found = {name: float(value) * spread**2 for name, value in zip(names, values, strict=True)}
    if not fit.converged or not all(math.isfinite(value) for value in found.values()):
        return unknown, ["the fit did not converge"]
    if sum(values) < AT_BOUND:
        return unknown, ["the axes explain everything: there is no variance to share"]
    values, notes = _at_bound(found)
    return values, [*notes, *([] if "seed" in names else [ONE_SEED])]


def _model(data: pd.DataFrame, formula: str, names: list[str]) -> MixedLM:
    """Return the model: seeds within worlds where it has both, else the only one of them as groups."""
    if "seed" in names and "world" in names:
        within = {"seed": "0 + C(block)"}
        return MixedLM.from_formula(formula, groups="world", re_formula="1", vc_formula=within, data=data)
    return MixedLM.from_formula(formula, groups="world" if "world" in names else "block", data=data)


def _at_bound(found: dict[str, float]) -> tuple[dict[str, float], list[str]]:
    """Return the components with those at their bound as 0, and which these are."""
    least = AT_BOUND * sum(found.values())
    gone = [name for name, value in found.items() if value < least]
    values = {name: 0.0 if name in gone else value for name, value in found.items()}
    note = f"singular fit: the likelihood is highest without a variance of {' and '.join(gone)}"
    return values, [note] if gone else []
