"""What a report says, as plain values: the one source of the HTML, Markdown, LaTeX and terminal tables.

Invariant: everything shown is in here once, so that no two formats can disagree; text is raw and each renderer escapes
it. What does not live here: markup (render.py, templates/), estimates (tables.py), the sections that are a module each
(sections/).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import confirmation, numbers, studies, tables
from analysis.context import Context
from analysis.frames import why_missing
from analysis.labels import short_fields
from analysis.opened import STATES, OpenedSweep
from analysis.points import cell_text, seeds_sentence
from analysis.score_intervals import is_binary
from analysis.section import Section, rows_of
from analysis.sections import all_sections
from analysis.verdicts import Verdict
from harness.records.schema import CONFIRM_ARM


@dataclass(frozen=True)
class Cell:
    """One measure under one condition."""

    before: float
    after: float
    delta: float
    low: float
    high: float
    mde: float
    p_holm: float
    num_items: int
    num_seeds: int
    kind: str
    note: str
    tone: str
    """`good`, `bad` or `unclear`: where the interval lies, seen in the measure's own direction."""


@dataclass(frozen=True)
class ConditionRow:
    """One condition of the main table."""

    label: str
    condition: str
    num_complete: int
    num_planned: int
    problems: str
    """States other than COMPLETE, counted; "" when all are."""
    chosen: bool
    cells: dict[str, Cell]


@dataclass(frozen=True)
class View:
    """A whole report."""

    title: str
    facts: dict[str, str]
    """Question: hypothesis, refuted if, source, command."""
    states: dict[str, int]
    """Trials in each state; one that stands in two arms counts once."""
    num_trials: int
    num_rows: int
    seeds: str
    measures: dict[str, dict[str, Any]]
    """Measure -> lower_is_better, slices, n items, largest MDE."""
    axis_name: str
    family_size: int
    groups: dict[str, list[ConditionRow]]
    """Arm -> its conditions."""
    highlights: list[dict[str, str]]
    missing: list[str]
    """What a reader must not overlook: absent trials, single seeds, mixed identities."""
    figures_missing: dict[str, str]
    """Figure -> why it is not drawn."""
    full_precision: list[dict[str, Any]]
    contrasts: list[dict[str, Any]]
    slices: list[dict[str, Any]]
    flips: list[dict[str, Any]]
    sections: list[Section]
    """Those of sections/, in their order."""
    sections_missing: dict[str, str]
    """Section -> why there is none."""
    selection: dict[str, str] | None
    claims: tuple[Verdict, ...]


def build_view(context: Context, figures_missing: dict[str, str]) -> View:
    """Return everything a report says about a sweep.

    Args:
        context: the sweep and its tables.
        figures_missing: figure -> why it was not drawn.
    """
    sweep, frame, effects = context.sweep, context.frame, context.effects
    sections, sections_missing = all_sections(context)
    record = sweep.record
    groups = _groups(sweep, frame, effects)
    main = effects[effects["level"] == "measure"]
    distinct = frame.drop_duplicates("trial_id")
    return View(
        title=f"{record.name} on {record.base}" + (f" · set {record.set_hash}" if record.set_hash else ""),
        facts={
            "Hypothesis": record.hypothesis,
            "Refuted if": record.refuted_if,
            "Source": record.source,
            "Command": record.command,
        }
        | ({"Winner": confirmation.sentence(context)} if context.is_sampled else {}),
        states={state: count for state in STATES if (count := int((distinct["state"] == state).sum()))},
        num_trials=len(distinct),
        num_rows=len(frame),
        seeds=seeds_sentence(frame),
        measures=_measures(sweep, main),
        axis_name=", ".join(short_fields(record.axis_fields).values()) or "condition",
        family_size=int(main["family_size"].max()) if len(main) else 0,
        groups=groups,
        highlights=_highlights(_named(context, groups), main),
        missing=_lost_items(frame, context.items) + _missing(sweep, frame, effects),
        figures_missing=figures_missing,
        full_precision=rows_of(context.full_precision),
        contrasts=rows_of(context.contrasts),
        slices=rows_of(effects[effects["level"] != "measure"]),
        flips=rows_of(context.condition_flips),
        sections=sections,
        sections_missing=sections_missing,
        selection=record.selection,
        claims=context.verdicts,
    )


def _measures(sweep: OpenedSweep, main: pd.DataFrame) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, slices in sweep.record.measures.items():
        rows = main[main["target"] == name]
        found[name] = {
            "lower_is_better": bool(rows["lower_is_better"].any()),
            "slices": list(slices),
            "num_items": int(rows["num_items"].max()) if len(rows) else 0,
            "num_clusters": int(rows["num_clusters"].max()) if len(rows) else 0,
            "mde": float(rows["mde"].max()) if rows["mde"].notna().any() else math.nan,
        }
    return found


# -- main table -------------------------------------------------------------------------------------------------------


def _groups(sweep: OpenedSweep, frame: pd.DataFrame, effects: pd.DataFrame) -> dict[str, list[ConditionRow]]:
    main = effects[effects["level"] == "measure"]
    by_condition = {str(name): rows for name, rows in main.groupby("condition", sort=False)}
    groups: dict[str, list[ConditionRow]] = {}
    for condition, trials in frame.groupby("condition", sort=False):
        rows = by_condition[str(condition)]
        groups.setdefault(str(trials["arm"].iloc[0]), []).append(_condition_row(sweep, str(condition), trials, rows))
    return groups


def _condition_row(sweep: OpenedSweep, condition: str, trials: pd.DataFrame, rows: pd.DataFrame) -> ConditionRow:
    first = trials.iloc[0]
    axes = [cell_text(first[f"axis.{name}"]) for name in sweep.record.axis_fields]
    others = Counter(state for state in trials["state"] if state != "COMPLETE")
    return ConditionRow(
        label=", ".join(axes) or condition,
        condition=condition,
        num_complete=int((trials["state"] == "COMPLETE").sum()),
        num_planned=len(trials),
        problems=", ".join(f"{count} {state}" for state, count in others.items()),
        chosen=bool(trials["chosen"].fillna(value=False).any()),
        cells={str(row["target"]): _cell(row) for _, row in rows.iterrows()},
    )


def _cell(row: pd.Series) -> Cell:
    return Cell(
        **{name: float(row[name]) for name in ("before", "after", "delta", "low", "high", "mde", "p_holm")},
        num_items=int(row["num_items"]),
        num_seeds=int(row["num_seeds"]),
        kind=str(row["kind"]),
        note=str(row["note"]),
        tone=_tone(row["low"], row["high"], lower_is_better=bool(row["lower_is_better"])),
    )


def _tone(low: float, high: float, *, lower_is_better: bool) -> str:
    if low > 0:
        return "bad" if lower_is_better else "good"
    if high < 0:
        return "good" if lower_is_better else "bad"
    return "unclear"


def _named(context: Context, groups: dict[str, list[ConditionRow]]) -> dict[str, list[ConditionRow]]:
    """Return the conditions that a summary may name: of a study those that fresh seeds confirm."""
    if not context.is_sampled:
        return groups
    return {CONFIRM_ARM: groups[CONFIRM_ARM]} if CONFIRM_ARM in groups else {}


def _highlights(groups: dict[str, list[ConditionRow]], main: pd.DataFrame) -> list[dict[str, str]]:
    """Return for each measure the condition that moved it most, either way."""
    rows = [row for group in groups.values() for row in group]
    found: list[dict[str, str]] = []
    for measure in dict.fromkeys(main["target"]):
        known = [(row, row.cells[measure]) for row in rows if math.isfinite(row.cells[measure].delta)]
        if not known:
            found.append(
                {"measure": str(measure), "value": numbers.UNKNOWN, "interval": "", "where": "", "tone": "unclear"}
            )
            continue
        row, cell = max(known, key=lambda pair: abs(pair[1].delta))
        found.append(
            {
                "measure": str(measure),
                "value": numbers.score(cell.delta, signed=True),
                "interval": numbers.interval(cell.low, cell.high),
                "where": row.condition,
                "tone": cell.tone,
            }
        )
    return found


# -- what is missing --------------------------------------------------------------------------------------------------


def _missing(sweep: OpenedSweep, frame: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    notes: list[str] = []
    absent = frame[~frame["state"].isin(["COMPLETE", "DIVERGED", "PRUNED"])]
    if len(absent):
        counts = ", ".join(f"{count} {state}" for state, count in absent["state"].value_counts(sort=False).items())
        notes.append(f"{len(absent)} of {len(frame)} planned trials have no result ({counts}); see Failures.")
    if diverged := int((frame["state"] == "DIVERGED").sum()):
        notes.append(
            f"{diverged} of {len(frame)} trials DIVERGED and have no score after; their conditions are means over the "
            "seeds that did not, and say k of n."
        )
    if pruned := int((frame["state"] == "PRUNED").sum()):
        notes.append(
            f"{pruned} of {len(frame)} planned trials were not run: their conditions were PRUNED, are means over the "
            "seeds that ran, and say k of n."
        )
    notes += [_sampled_note(frame)] if sweep.record.kind == "study" else _seed_notes(frame)
    notes += _extreme_notes(effects) + _unknown_notes(frame, effects) + _identity_notes(frame)
    unclear = frame["chosen_clear"].eq(False).fillna(value=False)
    return notes + [str(note) for note in frame.loc[unclear, "chosen_note"].dropna().unique()]


def _sampled_note(frame: pd.DataFrame) -> str:
    note = f"{studies.REASON[:1].upper()}{studies.REASON[1:]}."
    return note + (" Winners on fresh seeds (arm confirm) have one." if (frame["arm"] == CONFIRM_ARM).any() else "")


def _lost_items(frame: pd.DataFrame, items: pd.DataFrame) -> list[str]:
    complete = frame.loc[frame["state"] == "COMPLETE", "trial_id"].drop_duplicates()
    lost = int((~complete.isin(items["trial_id"].unique())).sum())
    return [f"{_count(lost, 'COMPLETE trial')} without a readable items file: no per-item number has them."] * (
        lost > 0
    )


def _seed_notes(frame: pd.DataFrame) -> list[str]:
    by_world = frame[frame["state"] == "COMPLETE"].groupby(["condition", "world"], dropna=False)["seed"].nunique()
    complete = by_world.groupby("condition").min()
    notes: list[str] = []
    if single := int((complete == 1).sum()):
        notes.append(
            f"{_count(single, 'condition')} with one complete seed: the interval covers items only, and says nothing "
            "about what another seed would give."
        )
    if few := int(complete.between(2, 4).sum()):
        notes.append(
            f"{_count(few, 'condition')} with 2 to 4 seeds: where seeds differ more than items do, an interval rests "
            "on few degrees of freedom (t = 4.30 at 3 seeds) and covers somewhat less than 95 %."
        )
    return notes


def _extreme_notes(effects: pd.DataFrame) -> list[str]:
    """Name the binary primary slices that sit at floor or ceiling before and after under every condition."""
    notes: list[str] = []
    for target, rows in effects[effects["level"] == "primary"].groupby("target", sort=False):
        values = {*rows["before"].dropna(), *rows["after"].dropna()}
        for end, name in ((0.0, "floor"), (1.0, "ceiling")):
            if values == {end} and is_binary(str(target)):
                notes.append(
                    f"{target} is at {name} ({end:g}) before and after in every condition: it can show nothing."
                )
    return notes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _unknown_notes(frame: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    notes: dict[str, int] = {}
    complete = frame[frame["state"] == "COMPLETE"]
    for target in dict.fromkeys(effects.loc[effects["level"] != "other", "target"]):
        for _, trial in complete[complete[f"delta/{target}"].isna()].iterrows():
            text = f"{target} is unknown ({why_missing(trial, f'delta/{target}')})"
            notes[text] = notes.get(text, 0) + 1
    scored = effects[(effects["level"] == "measure") & (effects["num_seeds"] > 0) & (effects["num_items"] == 0)]
    found = [f"{text} in {_count(count, 'COMPLETE trial')}." for text, count in notes.items()]
    if len(scored):
        found.append(
            f"{_count(len(scored), 'change')} without items that are scored before and after: the interval, if any, "
            "rests on seeds alone."
        )
    return found


def _identity_notes(frame: pd.DataFrame) -> list[str]:
    mixed = frame[frame["identity_mixed"]]
    notes = [f"Mixed identity: {note}." for note in mixed["identity_note"].dropna().unique()]
    if len(mixed):
        notes.insert(0, f"{len(mixed)} trials share a recipe but resolved to different contents; do not compare them.")
    for name, values in tables.mixed_provenance(frame).items():
        notes.append(f"{name} differs between trials: {'; '.join(values)}.")
    return notes
