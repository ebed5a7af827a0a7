"""Readable names for conditions, axes and values.

Invariant: two different conditions of one sweep never share a label. What does not live here: escaping (escape.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict

from harness.records.schema import PlannedTrial, SweepRecord
from harness.spec import Scalar


def format_value(value: Scalar) -> str:
    """Return an axis value as short text: 2e-05, 1000, on, n/a."""
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def short_fields(fields: tuple[str, ...]) -> dict[str, str]:
    """Return the shortest unambiguous name of each dotted field, e.g. data.num_examples -> num_examples."""
    leaves = Counter(field.rsplit(".", 1)[-1] for field in fields)
    return {field: field if leaves[leaf := field.rsplit(".", 1)[-1]] > 1 else leaf for field in fields}


def condition_labels(record: SweepRecord) -> list[str]:
    """Return one label per planned trial; replicates share theirs."""
    names = short_fields(tuple(dict.fromkeys(field for trial in record.trials for field in trial.axes)))
    several_arms = len({trial.arm for trial in record.trials}) > 1
    # A study's conditional dimension has no value where it does not apply; a sweep's None is a value like any other.
    dropped = (None,) if record.kind == "study" else ()
    labels = [_label(trial, names, dropped, several_arms) for trial in record.trials]
    owners: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for trial, label in zip(record.trials, labels, strict=True):
        owners[label].add((trial.arm, trial.condition_id))
    return [
        label if len(owners[label]) == 1 else f"{label} #{trial.condition_id[:8]}"
        for trial, label in zip(record.trials, labels, strict=True)
    ]


def _label(trial: PlannedTrial, names: dict[str, str], dropped: tuple[None, ...], with_arm: bool) -> str:
    axes = (f"{names[field]}={format_value(value)}" for field, value in trial.axes.items() if value not in dropped)
    label = ", ".join(axes) or trial.condition_id[:8]
    return f"{label} ({trial.arm})" if with_arm else label
