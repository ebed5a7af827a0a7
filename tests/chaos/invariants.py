"""What must hold of an output folder after any fault and the next start: the detectors of chaos.

Each returns sentences, none where all is well. They read the files themselves, without the code under test, save where
that code's own reading is what is judged.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.frames import sweep_frame
from analysis.opened import open_sweep
from harness.engine import states
from harness.records.schema import PlannedTrial, SweepRecord
from harness.records.seal import sealed
from harness.records.store import Store, write_atomic
from tests.chaos.stub import told

SWEEP = "chaos@stub"
MAX_PLACES = 6


@dataclass(frozen=True)
class Control:
    """What an undisturbed run left: trial -> its result less provenance, and the sha256 of the files it names."""

    results: dict[str, str]


def control_of(root: Path) -> Control:
    """Return what a run that nothing disturbed left in an output folder."""
    return Control({path.parent.name: _content(path) for path in sorted(root.glob("trials/*/result.json"))})


def _content(path: Path) -> str:
    """Return what a result says, apart from where and when it was made, with the sha256 of its files as they are."""
    tree: dict[str, Any] = json.loads(path.read_text())
    del tree["sha256"], tree["provenance"]
    found = {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in tree["files"]}
    return json.dumps({"result": tree, "found": found}, sort_keys=True)


def after_next_start(root: Path, trials: Sequence[PlannedTrial], control: Control) -> list[str]:
    """Return what is wrong once the same command has run again to its end."""
    return [*missing(root, trials), *differing(root, control), *always(root), *left_over(root), *torn(root)]


def always(root: Path) -> list[str]:
    """Return what is wrong at any time, in the moment after a kill as well."""
    return [*committed_twice(root), *half_written(root), *lost_attempts(root)]


def missing(root: Path, trials: Sequence[PlannedTrial]) -> list[str]:
    """Every cell has one result, and the status says so."""
    seen = states.of_trials(Store(root), trials)
    return [
        f"lost: {key[:8]} is {state.state} ({state.problem})" for key, state in seen.items() if state.result is None
    ]


def differing(root: Path, control: Control) -> list[str]:
    """Results are those of the control, and so is every file that they name."""
    found: list[str] = []
    for path in sorted(root.glob("trials/*/result.json")):
        try:
            content, wanted = _content(path), control.results[path.parent.name]
        except (OSError, ValueError, KeyError) as error:
            found.append(f"difference: {path.parent.name[:8]} cannot be compared ({error!r})")
            continue
        if content != wanted:
            found.append(f"difference: {path.parent.name[:8]} is not as undisturbed in {_places(content, wanted)}")
    return found


def _places(content: str, wanted: str) -> str:
    """Return the fields in which two results differ."""
    ours, theirs = (dict(_flat(json.loads(text))) for text in (content, wanted))
    names = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    return ", ".join(names[:MAX_PLACES])


def _flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict):
        yield name, tree
        return
    for key, value in tree.items():
        yield from _flat(value, f"{name}.{key}".lstrip("."))


def committed_twice(root: Path) -> list[str]:
    """No trial was run twice to a committed result, save after the first was set aside as damaged."""
    counts = Counter(line.trial for line in told(root) if line.event == "committed")
    found: list[str] = []
    for key, count in counts.items():
        aside = len(list((root / "trials" / key).glob("result.damaged-*.json")))
        if count > 1 + aside:
            found.append(f"duplicate: {key[:8]} was committed {count} times")
    return found


def run_twice(root: Path) -> list[str]:
    """Where nothing was killed each trial was run once."""
    counts = Counter(line.trial for line in told(root) if line.event == "run")
    return [f"duplicate: {key[:8]} was run {count} times" for key, count in counts.items() if count != 1]


def half_written(root: Path) -> list[str]:
    """No reader meets half a file: whatever stands under a record's name is whole."""
    found: list[str] = []
    for path in sorted(root.glob("trials/*/*.json")):
        if ".damaged-" in path.name:
            continue
        try:
            json.loads(path.read_bytes())
        except ValueError:
            found.append(f"torn: {path.name} of {path.parent.name[:8]} is half a file")
    return found


def lost_attempts(root: Path) -> list[str]:
    """Every run has its row in attempts.jsonl."""
    found: list[str] = []
    runs = Counter(line.trial for line in told(root) if line.event == "run")
    for key, num_runs in runs.items():
        folder = root / "trials" / key
        lines = b"".join(path.read_bytes() for path in sorted(folder.glob("attempts*.jsonl"))).splitlines()
        num_starts = sum(b'"start"' in line for line in lines)
        if num_starts < num_runs:
            found.append(f"attempts: {key[:8]} was run {num_runs} times and tells of {num_starts}")
    return found


def numbered_twice(root: Path) -> list[str]:
    """No two attempts of a trial have one number; two that no lock kept apart may."""
    found: list[str] = []
    for path in sorted(root.glob("trials/*/attempts.jsonl")):
        starts = [line for line in path.read_bytes().splitlines() if b'"start"' in line]
        numbers = [line.split(b'"attempt": ')[1].split(b",")[0] for line in starts]
        if len(set(numbers)) != len(numbers):
            found.append(f"attempts: {path.parent.name[:8]} has a number twice")
    return found


def left_over(root: Path) -> list[str]:
    """Nothing half written lies about."""
    patterns = (".*.tmp", ".*.building")
    return [f"left over: {path.relative_to(root)}" for pattern in patterns for path in sorted(root.rglob(pattern))]


def torn(root: Path) -> list[str]:
    """Each line of a log is a JSON object; a torn last one, which readers leave out, goes when the next is written."""
    found: list[str] = []
    for path in sorted(root.rglob("*.jsonl")):
        if ".damaged-" in path.name:
            continue
        lines = path.read_bytes().split(b"\n")[:-1]
        try:
            whole = all(isinstance(json.loads(line), dict) for line in lines)
        except ValueError:
            whole = False
        if not whole:
            found.append(f"torn: {path.relative_to(root)} has a line that is not whole")
    return found


# -- what the analyst reads -------------------------------------------------------------------------------------------


def record_of(trials: Sequence[PlannedTrial]) -> SweepRecord:
    """Return the plan of the trials, as a sweep would write it."""
    return SweepRecord(
        name="chaos",
        base="stub",
        kind="sweep",
        set_hash=None,
        hypothesis="h",
        refuted_if="r",
        source="s",
        command="c",
        measures={"retained": ("mc/arc",)},
        axis_fields=(),
        selection=None,
        trials=tuple(trials),
    )


def write_plan(root: Path, trials: Sequence[PlannedTrial]) -> Path:
    """Write `sweep.json` and return where it is."""
    path = Store(root).sweep(SWEEP) / "sweep.json"
    write_atomic(path, sealed(record_of(trials)))
    return path


def unreadable(root: Path, trials: Sequence[PlannedTrial], control: Control) -> list[str]:
    """The frame has a row for every cell, with the scores of the control."""
    write_plan(root, trials)
    frame = sweep_frame(open_sweep(Store(root), SWEEP))
    expected = {key: json.loads(text)["result"] for key, text in control.results.items()}
    found = [] if len(frame) == len(trials) else [f"frame: {len(frame)} rows of {len(trials)}"]
    for _, row in frame.iterrows():
        tree = expected[str(row["trial_id"])]
        score = next(iter(tree["after"]["test"].values()))["value"]
        numbers = [value for value in row.tolist() if isinstance(value, float)]
        if row["state"] != "COMPLETE" or score not in numbers:
            found.append(f"frame: {str(row['trial_id'])[:8]} is {row['state']} or has another score")
    return found
