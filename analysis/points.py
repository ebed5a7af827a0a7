"""What each figure draws, as frames of numbers: compute first, then draw.

Invariant: a figure shows nothing that is not in its points, which are written beside it as CSV. What does not live
here: drawing (figures.py), the estimates themselves (tables.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.labels import format_value, short_fields
from analysis.numbers import MINUS
from harness.records.schema import SweepRecord

SMOOTH_STEPS = 50
"""A training curve is drawn as at most this many means over equal runs of steps."""


def measure_titles(effects: pd.DataFrame) -> dict[str, str]:
    """Return measure -> what its panel is called: an arrow says that less is better."""
    rows = effects[effects["level"] == "measure"].drop_duplicates("target")
    return {
        f"title/{name}": f"{name} ↓" if lower else str(name)
        for name, lower in zip(rows["target"], rows["lower_is_better"], strict=True)
    }


@dataclass(frozen=True)
class FigureData:
    """One figure: its points, what the axes say, and the caption."""

    name: str
    kind: str
    """`front`, `axis`, `forest`, `flips` or `loss`."""
    points: pd.DataFrame
    caption: str
    labels: dict[str, str] = field(default_factory=dict)
    is_sampled: bool = False
    """Whether a sampler chose the points: no line runs through them, they differ in more than one thing."""


def all_figures(
    record: SweepRecord, frame: pd.DataFrame, effects: pd.DataFrame, flips: pd.DataFrame, metrics: pd.DataFrame
) -> tuple[list[FigureData], dict[str, str]]:
    """Return every figure that the sweep has data for, and name -> why for those that it has not.

    Args:
        record: the plan.
        frame: one row per planned trial.
        effects: the effects table.
        flips: flips by condition.
        metrics: the training logs.
    """
    made: list[FigureData] = []
    missing: dict[str, str] = {}
    attempts = [("front", front(record, frame, effects))]
    attempts += [(f"axis_{name}", axis_curve(record, frame, effects, name)) for name in record.axis_fields]
    attempts += [
        ("forest", forest(record, frame, effects)),
        ("flips", gains_and_losses(record, frame, flips)),
        ("loss", loss_curves(record, frame, metrics)),
    ]
    for name, result in attempts:
        if isinstance(result, str):
            missing[name] = result
        else:
            made.append(result)
    return made, missing


# -- learning against forgetting --------------------------------------------------------------------------------------


def front(record: SweepRecord, frame: pd.DataFrame, effects: pd.DataFrame) -> FigureData | str:
    """Return points of change in `learned` against change in `retained`, seeds and condition means, or why not."""
    wanted = ("learned", "retained")
    absent = [measure for measure in wanted if measure not in record.measures]
    if absent:
        return f"the sweep does not score the measure {absent[0]!r}"
    seeds = frame[[f"delta/{measure}" for measure in wanted]].notna().all(axis=1)
    if not seeds.any():
        return "no trial has both measures known"
    dots = _dots(frame[seeds], record).assign(
        kind="seed",
        learned=frame.loc[seeds, "delta/learned"],
        retained=frame.loc[seeds, "delta/retained"],
    )
    means = _means(record, frame, effects, wanted).dropna(subset=["learned", "retained"])
    means["on_front"] = _on_front(means["learned"].tolist(), means["retained"].tolist())
    points = pd.concat([dots, means], ignore_index=True)
    return FigureData(
        "front",
        "front",
        points,
        f"Learning against forgetting: change of the measures learned and retained, after minus before, on test items. "
        f"Large marks are means over seeds with paired 95 % intervals (items clustered, seeds crossed), small dots are "
        f"seeds, the dotted line joins the conditions that no other beats on both. {population(frame, effects)}",
        {name: f"{measure}, after {MINUS} before" for name, measure in zip("xy", wanted, strict=True)},
        record.kind == "study",
    )


def _means(record: SweepRecord, frame: pd.DataFrame, effects: pd.DataFrame, measures: tuple[str, ...]) -> pd.DataFrame:
    """Return one row per condition with each measure's delta, low and high."""
    first = frame.drop_duplicates("condition")
    table = _dots(first, record).assign(kind="mean", seed=None)
    for measure in measures:
        rows = effects[(effects["target"] == measure) & (effects["level"] == "measure")].set_index("condition")
        for source, column in (("delta", measure), ("low", f"{measure}_low"), ("high", f"{measure}_high")):
            table[column] = table["condition"].map(rows[source])
    return table


def _dots(frame: pd.DataFrame, record: SweepRecord) -> pd.DataFrame:
    table = frame[["condition", "arm", "seed", "world", "trial_id"]].copy()
    for name in record.axis_fields:
        table[f"axis.{name}"] = frame[f"axis.{name}"]
    numeric = [name for name in record.axis_fields if pd.api.types.is_numeric_dtype(frame[f"axis.{name}"])]
    named = [name for name in record.axis_fields if name not in numeric]
    table["label"] = [_axis_label(row, record.axis_fields) for _, row in frame.iterrows()]
    # A path runs along the numeric axes; where there is none, along all of them.
    table["place"] = [_axis_label(row, numeric or named) for _, row in frame.iterrows()]
    several_arms = table["arm"].nunique() > 1 or not (numeric and named)
    parts = [[_axis_label(row, named)] if numeric and named else [] for _, row in frame.iterrows()]
    table["series"] = [
        ", ".join([*part, arm] if several_arms else part) for part, arm in zip(parts, table["arm"], strict=True)
    ]
    return table


def _axis_label(row: pd.Series, fields: Sequence[str]) -> str:
    values = [row[f"axis.{name}"] for name in fields]
    return ", ".join(format_value(None if pd.isna(value) else _plain(value)) for value in values)


def _plain(value: object) -> bool | int | float | str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return int(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def _on_front(x: list[float], y: list[float]) -> list[bool]:
    """Return which points no other point beats on one coordinate without losing on the other; more is better."""
    pairs = list(zip(x, y, strict=True))
    return [not any((a >= p and b >= q) and (a > p or b > q) for a, b in pairs) for p, q in pairs]


def _path_label(record: SweepRecord) -> str:
    return ", ".join(short_fields(record.axis_fields).values())


# -- axis curves ------------------------------------------------------------------------------------------------------


def axis_curve(record: SweepRecord, frame: pd.DataFrame, effects: pd.DataFrame, name: str) -> FigureData | str:
    """Return points of every measure, before and after, along one axis; one line per arm and level of the others."""
    column = f"axis.{name}"
    others = [f"axis.{other}" for other in record.axis_fields if other != name]
    if record.kind == "study":  # hardly two of its conditions share a number
        others = [other for other in others if not _is_number(frame[other])]
    rows: list[dict[str, object]] = []
    for measure in record.measures:
        known = frame[frame[f"after/{measure}"].notna()]
        for _, trial in known.iterrows():
            rows.append(
                {"kind": "seed", "measure": measure, "x": trial[column], "series": _series(trial, others, frame)}
                | {"y": trial[f"after/{measure}"], "before": trial[f"before/{measure}"], "seed": trial["seed"]}
                | {"trial_id": trial["trial_id"], "condition": trial["condition"]}
            )
        rows += _axis_means(frame, effects, measure, column, others)
    if not rows:
        return "no trial has a known score"
    points = pd.DataFrame(rows)
    points = points[points["x"].notna()]
    if points.empty:
        return f"no scored trial has a value on {name}"
    short = short_fields(record.axis_fields)[name]
    return FigureData(
        f"axis_{_file_name(short)}",
        "axis",
        points,
        f"Score after training along {short}; the dashed line is the base. Bars are paired 95 % intervals of the "
        f"change (items clustered, seeds crossed), dots are seeds. {population(frame, effects)}",
        {"x": short} | measure_titles(effects),
        record.kind == "study",
    )


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _axis_means(
    frame: pd.DataFrame, effects: pd.DataFrame, measure: str, column: str, others: list[str]
) -> list[dict[str, object]]:
    table = effects[(effects["target"] == measure) & (effects["level"] == "measure") & effects["delta"].notna()]
    first = frame.drop_duplicates("condition").set_index("condition")
    return [
        {
            "kind": "mean",
            "measure": measure,
            "x": first.loc[effect["condition"], column],
            "series": _series(first.loc[effect["condition"]], others, frame),
            "y": effect["after"],
            "low": effect["before"] + effect["low"],
            "high": effect["before"] + effect["high"],
            "before": effect["before"],
            "condition": effect["condition"],
        }
        for _, effect in table.iterrows()
    ]


def _series(trial: pd.Series, others: list[str], frame: pd.DataFrame) -> str:
    parts = [
        f"{name.rsplit('.', 1)[-1]}={format_value(_plain(trial[name]))}" for name in others if not pd.isna(trial[name])
    ]
    if frame["arm"].nunique() > 1:
        parts.append(str(trial["arm"]))
    return ", ".join(parts)


# -- forest, flips, loss ----------------------------------------------------------------------------------------------


def forest(record: SweepRecord, frame: pd.DataFrame, effects: pd.DataFrame) -> FigureData | str:
    """Return each condition's change of each measure with its interval, or why not."""
    columns = ["condition", "target", "delta", "low", "high", "kind", "num_seeds", "num_items", "lower_is_better"]
    points = effects.loc[(effects["level"] == "measure") & effects["delta"].notna(), columns]
    if points.empty:
        return "no condition has a known change"
    return FigureData(
        "forest",
        "forest",
        points.rename(columns={"target": "measure"}).merge(_row_labels(record, frame), on="condition"),
        "Change of every measure, after minus before, with paired 95 % intervals (items clustered, seeds crossed; not "
        f"adjusted for the number of comparisons). Open marks: one seed, items only. {population(frame, effects)}",
        {"rows": _path_label(record)} | measure_titles(effects),
    )


def _row_labels(record: SweepRecord, frame: pd.DataFrame) -> pd.DataFrame:
    first = frame.drop_duplicates("condition")
    return _dots(first, record)[["condition", "arm", "label"]]


def gains_and_losses(record: SweepRecord, frame: pd.DataFrame, flips: pd.DataFrame) -> FigureData | str:
    """Return the shares of items gained and lost per condition and measure, mean over primary slices and seeds."""
    if flips.empty:
        return "no binary item is known before and after"
    measure_of = {key: measure for measure, keys in record.measures.items() for key in keys}
    table = flips.assign(
        measure=[measure_of.get(str(key).rsplit("/", 1)[0]) for key in flips["key"]],
        gained_share=flips["gained"] / flips["num_items"],
        lost_share=flips["lost"] / flips["num_items"],
    ).dropna(subset=["measure"])
    points = table.groupby(["condition", "measure"], sort=False)[["gained_share", "lost_share"]].mean().reset_index()
    points = points.merge(_row_labels(record, frame)[["condition", "arm", "label"]], on="condition")
    return FigureData(
        "flips",
        "flips",
        points,
        "Share of test items that became right (gained) and wrong (lost); mean over a measure's primary slices with "
        f"binary scores, and over seeds. {seeds_sentence(frame)}",
        {"rows": _path_label(record)},
    )


def loss_curves(record: SweepRecord, frame: pd.DataFrame, metrics: pd.DataFrame) -> FigureData | str:
    """Return training loss (means over runs of steps) and validation loss by condition, mean over seeds."""
    present = [name for name in ("train/loss", "val/loss") if name in metrics.columns]
    if metrics.empty or "step" not in metrics.columns or not present:
        return "no trial has logged a loss"
    parts: list[pd.DataFrame] = []
    for name in present:
        table = metrics.loc[metrics[name].notna(), ["condition", "arm", "seed", "step", name]]
        table = table.rename(columns={name: "loss"}).astype({"step": float, "loss": float})
        if name == "train/loss":
            width = table.groupby("condition")["step"].transform("max") / SMOOTH_STEPS
            table["step"] = ((table["step"] / width.clip(lower=1)).round() * width.clip(lower=1)).round()
        means = table.groupby(["condition", "arm", "step"], sort=False)["loss"].agg(["mean", "count"]).reset_index()
        parts.append(means.rename(columns={"mean": "loss", "count": "num_values"}).assign(kind=name))
    points = pd.concat(parts, ignore_index=True).sort_values(["arm", "condition", "kind", "step"], kind="stable")
    order = {condition: place for place, condition in enumerate(dict.fromkeys(frame["condition"]))}
    points = points.assign(order=points["condition"].map(order)).sort_values(["order", "kind", "step"])
    return FigureData(
        "loss",
        "loss",
        points.drop(columns="order").merge(_row_labels(record, frame)[["condition", "label"]], on="condition"),
        f"Training loss (lines) and validation loss (dots) by step, mean over seeds. {seeds_sentence(frame)}",
        {"rows": _path_label(record)},
    )


def population(frame: pd.DataFrame, effects: pd.DataFrame) -> str:
    """Return one sentence with the number of items and seeds behind the measures."""
    table = effects[(effects["level"] == "measure") & (effects["num_items"] > 0)]
    items = [
        f"{target} n = {low:g}" if low == high else f"{target} n = {low:g} to {high:g}"
        for target, group in table.groupby("target", sort=False)
        for low, high in [(group["num_items"].min(), group["num_items"].max())]
    ]
    return f"Test items: {', '.join(items) or 'none'}. {seeds_sentence(frame)}"


def seeds_sentence(frame: pd.DataFrame) -> str:
    """Return one sentence with the number of seeds (and worlds) per condition, planned and complete."""
    num_worlds = frame["world"].nunique()
    planned = replicates_per_condition(frame)
    done = replicates_per_condition(frame[frame["state"] == "COMPLETE"]).reindex(planned.index, fill_value=0)
    k = f"{planned.min()}" if planned.min() == planned.max() else f"{planned.min()} to {planned.max()}"
    seeds = f"Seeds per condition: {k}" if num_worlds == 0 else f"Seeds x worlds per condition: {k}"
    over = f", over {num_worlds} world{'' if num_worlds == 1 else 's'}" if num_worlds else ""
    short = int((done < planned).sum())
    return seeds + over + (f"; {short} of {len(planned)} conditions lack some." if short else ".")


def replicates_per_condition(trials: pd.DataFrame) -> pd.Series:
    """Return condition -> number of its replicates: seeds, or pairs of world and seed."""
    return trials.drop_duplicates(["condition", "world", "seed"]).groupby("condition").size()


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in text)[:60]
