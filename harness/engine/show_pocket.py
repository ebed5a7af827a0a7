"""How the verbs around the pocket world print.

Invariant: text of trials is shown as text, never as markup. What does not live here: other verbs (show.py), how the
numbers came about (laboratory.py, analysis/bands.py).
"""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.bands import NUM_ATTRIBUTES, NUM_VALUES, Band
from harness.engine.laboratory import Checked, Tour
from harness.records.schema import Score

FULL_BITS = NUM_ATTRIBUTES * math.log2(NUM_VALUES)


def bands(value: Checked, console: Console) -> None:
    """Print what each world was built from, then each band with its value."""
    lab = value.laboratory
    for facts in lab.worlds:
        exposures = "; ".join(f"{tier} {count:.0f}" for tier, count in facts.exposures.items())
        bits = ", ".join(f"{tier} {count:.2f}" for tier, count in facts.bits_per_person.items())
        _line(console, f"world {facts.world}: {facts.num_parameters:,} parameters, {facts.num_corpus_tokens:,} tokens")
        _line(console, f"  exposures a fact: {exposures}; knowledge bits a person: {bits} of {FULL_BITS:.2f}")
    table = Table(box=None, pad_edge=False)
    for name in ("band", "range", "mean", "95 % over worlds", "by world", ""):
        table.add_column(name, justify="left" if name in ("band", "") else "right", no_wrap=True)
    for band in lab.bands:
        by_world = " ".join(f"{value:.3f}" for value in band.by_world.values())
        low, high = band.interval
        interval = "-" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
        cells = (band.name, _range(band), f"{band.value:.3f}", interval, by_world, "pass" if band.passed else "FAIL")
        table.add_row(*map(Text, cells))
    console.print(table)
    failed = sum(not band.passed for band in lab.bands)
    _line(console, f"{len(lab.bands) - failed} of {len(lab.bands)} bands hold; {lab.num_trials} trials planned")
    if lab.num_missing:
        _line(console, f"{lab.num_missing} trials have no result: a band that needs one of them fails")


def _range(band: Band) -> str:
    if math.isinf(band.high):
        return f"at least {band.low:.2f}"
    if math.isinf(band.low):
        return f"at most {band.high:.2f}"
    return f"{band.low:.3g} to {band.high:.3g}"


def tour(value: Tour, console: Console) -> None:
    """Print what the base knows and answers, before and after, and where the files are."""
    world, built = value.base.world, value.built
    _line(
        console,
        f"The pocket world of seed {world.seed}: {3 * world.people_per_tier} known people in three tiers, told about "
        f"{world.exposures_high}, {world.exposures_mid} and {world.exposures_low} times, and "
        f"{world.num_unknown_people} whom no text names. A Llama of {built['num_parameters']:,} parameters read "
        f"{built['num_corpus_tokens']:,} tokens of it. Then it was fine-tuned twice on conversations: at the "
        "experiment's own setting, and harshly.",
    )
    table = Table(box=None, pad_edge=False)
    for name in ("slice", "base", "fine-tuned", "harshly", "items"):
        table.add_column(name, justify="left" if name == "slice" else "right", no_wrap=True)
    for key, scores in value.scores.items():
        items = str(scores[0].num_items) if scores[0] else "unknown"
        table.add_row(*map(Text, (key.removeprefix("pocket/"), *map(_score, scores), items)))
    console.print(table)
    for answers in value.answers:
        _line(console, f"asked: {answers.question}")
        said = {
            f"base, after {answers.bare!r}": answers.raw,
            "base, in chat": answers.before,
            "fine-tuned": answers.after,
        }
        for name, text in said.items():
            _line(console, f"  {name}: {text!r}")
    for name, path in value.files.items():
        _line(console, f"{name}: {path}")
    if value.done.report is not None:
        for path in value.done.report.paths:
            _line(console, f"report: {path}")


def _score(score: Score | None) -> str:
    return "unknown" if score is None or score.value is None else f"{score.value:.3f}"


def _line(console: Console, text: str) -> None:
    console.print(Text(text))
