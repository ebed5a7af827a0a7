"""Where an analyst starts: one sweep as frames, one paired estimate, one figure.

    make notebook NAME=lima_size                             # opens a copy of this that is yours, beside the report
    python notebooks/start.py --name lima_size --out out     # the same as a plain script: prints the estimate

Invariant: reads records only, through the loaders of `analysis`; docs/metrics.md documents every column.
"""

import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    from pathlib import Path

    import marimo as mo
    import matplotlib.pyplot as plt
    import pandas as pd

    import analysis
    from analysis.stats import crossed_effect, pooled_over_worlds, unknown_effect

    return Path, analysis, crossed_effect, mo, pd, plt, pooled_over_worlds, unknown_effect


@app.cell
def _(Path, mo):
    given = mo.cli_args().to_dict()
    sweep = {
        "name": given.get("name", "lima_size"),
        "base": given.get("base", "pocket"),
        "out": Path(str(given.get("out", "out"))),
        # written set-0123abcd: bare digits would arrive as a number
        "set_hash": given["set_hash"].removeprefix("set-") if "set_hash" in given else None,
    }
    return (sweep,)


@app.cell
def _(mo, sweep):
    mo.md(
        f"# {sweep['name']} on {sweep['base']}\n\nOne row per planned trial. Count the states before you average: only "
        "COMPLETE trials have scores, and a DIVERGED one is a result, too. Empty is unknown, never 0."
    )
    return


@app.cell
def _(analysis, sweep):
    trials = analysis.load_sweep(**sweep)
    trials.groupby(["condition", "state"], sort=False).size().unstack(fill_value=0)
    return (trials,)


@app.cell
def _(mo, trials):
    metrics = [name.removeprefix("delta/") for name in trials if name.startswith("delta/") and name.count("/") == 3]
    conditions = list(dict.fromkeys(trials["condition"]))
    metric = mo.ui.dropdown(metrics, value=metrics[0], label="metric")
    first = mo.ui.dropdown(conditions, value=conditions[0], label="first condition")
    second = mo.ui.dropdown(conditions, value=conditions[-1], label="second condition")
    mo.hstack([metric, first, second], justify="start")
    return first, metric, second


@app.cell
def _(mo):
    mo.md(
        "## Two conditions, paired by item and seed\n\nTest items only: val is for choosing. Seeds and clusters of "
        "items are crossed sources of variance; worlds, where there are several, are strata."
    )
    return


@app.cell
def _(analysis, metric, sweep):
    items = analysis.load_items(**sweep)
    test = items[
        (items["split"] == "test") & (items["suite"] + "/" + items["task"] + "/" + items["metric"] == metric.value)
    ]
    return (test,)


@app.cell
def _(crossed_effect, first, metric, pd, pooled_over_worlds, second, test, unknown_effect):
    def paired(values: pd.DataFrame):
        """Return second - first of one world: rows are items, columns are seeds that both have."""
        wide = values.pivot_table(index=["item_id", "cluster"], columns=["condition", "seed"], values="after")
        if not {first.value, second.value} <= set(wide.columns.get_level_values("condition")):
            return unknown_effect("a condition has no score")
        differences = (wide[second.value] - wide[first.value]).dropna(axis=1, how="all").dropna()
        clusters = differences.index.get_level_values("cluster")
        return crossed_effect(differences.to_numpy(), list(clusters), [metric.value] * len(differences))

    worlds = {world: paired(values) for world, values in test.groupby("world", dropna=False)}
    effect = pooled_over_worlds(worlds) if worlds else unknown_effect("no item has a score after")
    print(
        f"{metric.value}: {second.value} - {first.value} = {effect.estimate:+.4f} "
        f"[{effect.low:+.4f}, {effect.high:+.4f}], {effect.num_items} items, {effect.num_seeds} seeds {effect.note}"
    )
    return (effect,)


@app.cell
def _(effect, pd):
    from dataclasses import asdict

    pd.Series(asdict(effect), name="effect").to_frame().astype(str)
    return


@app.cell
def _(metric, plt, trials):
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for place, (_, own) in enumerate(trials.groupby("condition", sort=False)):
        values = own[f"delta/{metric.value}"].dropna()
        axes.plot(values, [place] * len(values), "o", color="0.6", markersize=4)
        axes.plot(values.mean(), place, "|", color="black", markersize=14)
    axes.set_yticks(range(trials["condition"].nunique()), list(dict.fromkeys(trials["condition"])))
    axes.axvline(0, color="0.8", zorder=0)
    axes.set_xlabel(f"{metric.value}, after - before; a dot is a seed, a bar their mean")
    figure
    return


@app.cell
def _(mo):
    mo.md(
        "## What else there is\n\nAnswers to fixed prompts, sampled answers to items, the training log, scores while "
        "training, between base and tuned, and drift. A sweep that did not ask for one of them has an empty table with "
        "the same columns."
    )
    return


@app.cell
def _(analysis, mo, sweep):
    others = {
        "samples": analysis.load_samples(**sweep),
        "sampled": analysis.load_sampled(**sweep),
        "metrics": analysis.load_metrics(**sweep),
        "questions": analysis.load_questions(**sweep),
        "rows": analysis.load_rows(**sweep),
        "choices": analysis.load_choices(**sweep),
        "during": analysis.load_during(**sweep),
        "interpolation": analysis.load_interpolation(**sweep),
        "drift": analysis.load_drift(**sweep),
    }
    mo.ui.tabs({f"{name} ({len(table)})": mo.ui.table(table.head(1000)) for name, table in others.items()})
    return


if __name__ == "__main__":
    app.run()
