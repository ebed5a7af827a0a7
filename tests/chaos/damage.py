"""Damaged files: cut at every byte, with a bit flipped, or of something else under the name that is asked for."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.engine import forecast, proposals, worker
from harness.errors import StoreError
from harness.records import before, points, result, store
from harness.records.schema import Failure, Progress, SweepRecord
from harness.records.seal import sealed
from harness.records.store import Store, read_lines, write_atomic
from tests.chaos import broken, faults, invariants, processes, stub
from tests.chaos.setting import Setting, Tally

SETTLED = 6
"""Damages of each file after which the same command runs again; all of them are read."""


@dataclass(frozen=True)
class Target:
    """A file, and who reads it: a call that returns what it says, or raises StoreError."""

    path: Path
    read: Callable[[], Any]
    is_sealed: bool = True
    """Whether any changed bit must be found, not only a cut."""


def worked_in(setting: Setting) -> Path:
    """Return an output folder with all that a store can hold: results, a failure, a plan, a study's proposals."""
    root, trials = setting.fresh(), setting.trials[:2]
    assert setting.control
    assert processes.finish(root, trials) == 0
    invariants.write_plan(root, trials)
    folder = Store(root).sweep(invariants.SWEEP)
    params = {"train.learning_rate": 0.1}
    asked = [
        proposals.Proposal(number=number, sampler_seed=number, params=params, condition_id="c") for number in range(2)
    ]
    write_atomic(folder / "study.json", sealed(proposals.StudyRecord(definition="d", proposals=tuple(asked))))
    failed = root / "trials" / setting.trials[2].trial_id
    worker.record_failure(failed, failed.name, "oom", "no memory", 1, "python -m harness run-trial")
    state = Progress(
        phase="train", step=1, num_steps=4, loss=1.0, tokens_per_second=1.0, pid=1, time_utc="2026-01-01T00:00:00+00:00"
    )
    write_atomic(failed / "progress.json", state.model_dump_json().encode())
    return root


def records(setting: Setting, root: Path) -> list[Target]:
    """Return the records of a folder that are read as a whole."""
    kept, key = Store(root), setting.trials[0].trial_id
    folder, failed, sweep = kept.trial(key), kept.trial(setting.trials[2].trial_id), kept.sweep(invariants.SWEEP)
    scored = kept.artefact("before", stub.before_key(setting.trials[0].spec))
    whole: list[tuple[Path, Any]] = [
        (failed / "failure.json", Failure),
        (sweep / "sweep.json", SweepRecord),
        (sweep / "study.json", proposals.StudyRecord),
    ]
    return [
        Target(folder / "result.json", lambda: result.read(folder)),
        *(Target(path, partial(kept.read, path, model)) for path, model in whole),
        Target(scored / "scores.json", lambda: before.read(kept, scored.name, scored)),
        Target(failed / "progress.json", lambda: kept.read(failed / "progress.json", Progress), is_sealed=False),
    ]


def logs(setting: Setting, root: Path) -> list[Path]:
    """Return the files of lines of a folder."""
    folder = Store(root).trial(setting.trials[0].trial_id)
    return [folder / "metrics.jsonl", folder / "attempts.jsonl", *sorted((root / "probes").glob("*.jsonl"))]


# -- cuts -------------------------------------------------------------------------------------------------------------


def cut_files(setting: Setting) -> Tally:
    """Cut every record and log at every byte: it is read, or named and set aside; never another answer."""
    tally, root = setting.tally, worked_in(setting)
    broken.apply(setting.build)
    for target in records(setting, root):
        _cut_record(tally, target)
    for path in logs(setting, root):
        _cut_log(tally, path)
    for path in [target.path for target in records(setting, root)[:1]] + logs(setting, root):
        whole = path.read_bytes()
        for _ in range(SETTLED):
            path.write_bytes(whole[: setting.random.randrange(len(whole))])
            if path.name == "attempts.jsonl":  # only another attempt looks at it, and the rows cut off are gone
                (path.parent / result.RESULT).unlink()
            _settle_here(setting, tally, f"cut {path.name}", root)
    _set_aside_study(setting, tally, root)
    return tally


def _cut_record(tally: Tally, target: Target) -> None:
    whole, said = target.path.read_bytes(), target.read()
    for size in reversed(range(len(whole))):
        os.truncate(target.path, size)
        tally.counts["cuts"] += 1
        _named(tally, f"cut at byte {size}", target, said)
    target.path.write_bytes(whole)


def _named(tally: Tally, what: str, target: Target, said: Any) -> bool:
    """Check that a damaged file is named by who reads it; return whether it was found."""
    try:
        read = target.read()
    except StoreError as error:
        tally.require(target.path.name in str(error), f"{target.path.name} {what}: not named in {error}")
        tally.require("\n" not in str(error), f"{target.path.name} {what}: more than a sentence")
        return True
    except Exception as error:  # whatever a reader raises besides is what this looks for
        tally.problems.append(f"{target.path.name} {what}: {error!r}")
        return False
    tally.require(read == said, f"{target.path.name} {what}: read as something else")
    return False


def _cut_log(tally: Tally, path: Path) -> None:
    """What is left is a beginning of the rows, and the next row comes after it."""
    whole, rows = path.read_bytes(), read_lines(path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        tally.counts["cuts"] += 1
        left = read_lines(path)
        tally.require(left == rows[: len(left)], f"{path.name} cut at byte {size}: read as something else")
        store.append_line(path, {"next": size})
        try:
            again = read_lines(path)
        except StoreError as error:
            tally.problems.append(f"{path.name} cut at byte {size}: {error}")
            continue
        tally.require(again == [*left, {"next": size}], f"{path.name} cut at byte {size}: a row is lost or added")
    path.write_bytes(whole)


def _settle_here(setting: Setting, tally: Tally, what: str, root: Path) -> None:
    """Run the same command again in a folder that further damages follow in; the ledger begins anew."""
    trials = setting.trials[:2]
    stub.ledger(root).unlink(missing_ok=True)
    code = processes.finish(root, trials, setting.build)
    tally.require(code == 0, f"{what}: the next start ended with {code}")
    tally.check(what, invariants.after_next_start(root, trials, setting.control))
    tally.counts["trials compared"] += len(trials)


def _set_aside_study(setting: Setting, tally: Tally, root: Path) -> None:
    """A study whose proposals are cut sets them aside under another name, byte for byte."""
    folder = Store(root).sweep(invariants.SWEEP)
    path, plan = folder / "study.json", SimpleNamespace(store=Store(root), folder=folder)
    cut = path.read_bytes()[: setting.random.randrange(1, path.stat().st_size)]
    path.write_bytes(cut)
    tally.require(proposals._read(plan, "study.json", proposals.StudyRecord) is None, "study.json cut: read")  # type: ignore[arg-type]
    aside = [found.read_bytes() for found in folder.glob("study.*-1.json")]
    tally.require(aside == [cut], "study.json cut: it is not kept under another name")


# -- flips ------------------------------------------------------------------------------------------------------------


def bit_flips(setting: Setting) -> Tally:
    """Flip bits of records, adapters, manifests, caches, checkpoints: each is found, named, set aside and rebuilt."""
    tally, root = setting.tally, worked_in(setting)
    broken.apply(setting.build)
    kept, key = Store(root), setting.trials[0].trial_id
    folder, scored = kept.trial(key), kept.artefact("before", stub.before_key(setting.trials[0].spec))
    standing = result.read(folder)
    assert standing is not None
    targets = [target for target in records(setting, root) if target.is_sealed]
    targets += [Target(folder / name, lambda: result.verify_small(folder, standing)) for name in standing.files]
    targets += [Target(path, lambda: _cached(kept, scored)) for path in sorted(scored.iterdir())]
    for target in targets:
        _flip_all(setting, tally, target)
    for target in targets:
        if target.path.parent.parent.name != "sweeps" and target.path.name != "failure.json":
            _flip_and_settle(setting, tally, root, target.path)
    _flip_logs(setting, tally, root)
    _flip_checkpoints(setting, tally)
    return tally


def _cached(kept: Store, scored: Path) -> Any:
    store.verify_manifest(scored)
    return before.read(kept, scored.name, scored)


def _flip_all(setting: Setting, tally: Tally, target: Target) -> None:
    """Flip a random bit of every byte, in the long set each of its bits."""
    whole, said = target.path.read_bytes(), target.read()
    for place in range(len(whole)):
        for bit in range(8) if setting.is_long else [setting.random.randrange(8)]:
            faults.flip(target.path, place, bit)
            tally.counts["flips"] += 1
            found = _named_or_folder(tally, f"bit {bit} of byte {place} flipped", target, said)
            tally.require(found, f"{target.path.name} bit {bit} of byte {place} flipped: not found")
            faults.flip(target.path, place, bit)
    assert target.path.read_bytes() == whole


def _named_or_folder(tally: Tally, what: str, target: Target, said: Any) -> bool:
    """As `_named`; a manifest that is damaged may show as a file that it names or does not."""
    if target.path.name != store.MANIFEST:
        return _named(tally, what, target, said)
    try:
        target.read()
    except StoreError as error:
        tally.require(str(target.path.parent) in str(error), f"manifest {what}: not named in {error}")
        return True
    return False


def _flip_and_settle(setting: Setting, tally: Tally, root: Path, path: Path) -> None:
    """After a flip the same command sets the file aside and makes it again, equal to the control."""
    for _ in range(2):
        faults.flip(path, setting.random.randrange(path.stat().st_size), setting.random.randrange(8))
        flipped = path.read_bytes()
        if "artefacts" in path.parts:  # only a trial that runs uses them
            shutil.rmtree(root / "trials")
        tally.counts["flips rebuilt"] += 1
        _settle_here(setting, tally, f"flip in {path.name}", root)
        copies = [found.read_bytes() for found in root.rglob("*") if ".damaged-" in str(found) and found.is_file()]
        tally.require(flipped in copies, f"flip in {path.name}: the damaged file was not kept aside")


def _flip_logs(setting: Setting, tally: Tally, root: Path) -> None:
    """A flip in what is only counted or forecast from stops nothing and is never a traceback."""
    attempts, *measured = logs(setting, root)[1:]
    for path in (attempts, *measured):
        for place in range(path.stat().st_size):
            bit = setting.random.randrange(8)
            faults.flip(path, place, bit)
            tally.counts["flips in logs"] += 1  # which nothing is decided from: none need be found
            try:
                worker.num_attempts(path.parent) if path is attempts else forecast.Forecast(Store(root)).of(
                    setting.trials[0].spec
                )
            except Exception as error:  # whatever a reader raises is what this looks for
                tally.problems.append(f"{path.name} flip at byte {place}: {error!r}")
            faults.flip(path, place, bit)


def _flip_checkpoints(setting: Setting, tally: Tally) -> None:
    """A trial that was killed after a checkpoint, which then has a flip, sets it aside and comes to the same end."""
    trial = setting.trials[0]
    for name in ("trainable.safetensors", "state.json", "manifest.json"):
        for _ in range(SETTLED):
            root = setting.fresh()
            processes.wait(processes.attempt(root, trial, partial(_die_at_step, 4, setting.build)))
            path = root / "trials" / trial.trial_id / "checkpoints/step_00000002" / name
            faults.flip(path, setting.random.randrange(path.stat().st_size), setting.random.randrange(8))
            tally.counts["flips"] += 1
            tally.require(processes.finish(root, [trial], setting.build) == 0, f"checkpoint {name}: it failed")
            log = root / "trials" / trial.trial_id / "attempts/2.log"
            tally.require("set aside" in log.read_text(), f"checkpoint {name}: the flip was not found")
            setting.settle(tally, f"checkpoint {name}", root, [trial])


def _die_at_step(step: int, build: str) -> None:
    """Make this attempt be killed as it logs a step."""
    broken.apply(build)
    passed: Counter[str] = Counter()

    def passing(point: str, path: Path) -> None:
        passed[f"{point} {path.name}"] += 1
        if passed["append.opened metrics.jsonl"] == step:
            faults.act("kill", "")

    points.passing = passing


# -- poisoned caches --------------------------------------------------------------------------------------------------


def poisoned_caches(setting: Setting) -> Tally:
    """Put foreign content under the key of a before-score: it is never used, and the scores are measured again."""
    tally, trials = setting.tally, setting.trials[:2]
    for poison in (
        _foreign_scores,
        _foreign_folder,
        _foreign_folder_resealed,
        _no_scores,
        _empty_scores,
        _torn_manifest,
    ):
        root = setting.fresh()
        assert setting.control
        assert processes.finish(root, trials) == 0
        shutil.rmtree(root / "trials")
        first, second = (Store(root).artefact("before", stub.before_key(trial.spec)) for trial in trials)
        poison(first, second)
        stub.ledger(root).unlink()
        tally.counts["poisoned caches"] += 1
        setting.settle(tally, f"cache poisoned by {poison.__name__}", root, trials)
    return tally


def _foreign_scores(first: Path, second: Path) -> None:
    shutil.copy(second / before.SCORES_FILE, first)


def _foreign_folder(first: Path, second: Path) -> None:
    shutil.rmtree(first)
    shutil.copytree(second, first)


def _foreign_folder_resealed(first: Path, second: Path) -> None:
    shutil.copy(second / before.SCORES_FILE, first)
    store.write_manifest(first)


def _no_scores(first: Path, second: Path) -> None:
    (first / before.SCORES_FILE).unlink()


def _empty_scores(first: Path, second: Path) -> None:
    (first / before.SCORES_FILE).write_text("{}")
    store.write_manifest(first)


def _torn_manifest(first: Path, second: Path) -> None:
    whole = json.loads((first / store.MANIFEST).read_text())
    (first / store.MANIFEST).write_text(json.dumps(list(whole)))
