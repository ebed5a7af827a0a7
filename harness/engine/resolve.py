"""From what the user typed to a setting: the experiment with base, data, evaluation, panel and SET applied.

Invariant: torch-free, reads but writes nothing, and every refusal is a `BadInputError` of one sentence. What does not
live here: enumerating cells (axes.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from harness.engine import asked, catalog, conflicts, worlds
from harness.errors import DataError, ModelError, SpecError, shown, unknown_name
from harness.identity import canonical_json
from harness.records import result
from harness.records.store import MANIFEST, Store
from harness.redact import holds_secret
from harness.spec import (
    WORLD_SEED,
    Experiment,
    FolderBase,
    FullConfig,
    LoraConfig,
    PocketBase,
    QLoraConfig,
    Runtime,
    Study,
    Sweep,
    TrialBase,
    TrialSpec,
)

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes, on Linux."""
LONGEST_FIELD = 200
DEEPEST = 32
"""Objects and lists inside one another in SET."""
METHODS = {"full": FullConfig, "lora": LoraConfig, "qlora": QLoraConfig}


@dataclass(frozen=True)
class Request:
    """What a user asked for."""

    name: str
    base: str = "pocket"
    data: str | None = None
    evals: str | None = None
    suites: str | None = None
    """Names of the catalogue (harness/evals/suites.py) with commas between, whose files are in `evals`."""
    set: str | None = None
    """JSON object: dotted field of the spec or of `runtime`, `evals.num_items` for every task, `evals.layouts` to ask
    primary slices in, `evals.num_samples` and `evals.temperature` for every task that can have samples, or
    `world.<field>` for the pocket world of base, rows and items -> value. A list on an axis, or on `seed`, replaces its
    values by these absolute ones; a list on `world.seed` repeats a sweep over these worlds, [] over the base's own
    alone."""
    panel: Literal["primary", "full"] = "primary"
    out: Path = Path("out")


@dataclass(frozen=True)
class Setting:
    """A sweep or study and the experiment it runs on, everything that the user overrode applied."""

    sweep: Sweep | Study
    experiment: Experiment
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields that the sweep and SET fix, in this order, `method` perhaps by its kind."""
    axis_values: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Axis, `seed` or `world.seed` -> absolute values from SET."""
    set_hash: str | None = None


def resolve(request: Request) -> Setting:
    """Return the setting of a request.

    Raises:
        SpecError: an unknown name or field, or an invalid value.
        ModelError: the base is not usable.
        DataError: the data or evaluation files are not usable.
    """
    if request.panel not in ("primary", "full"):
        raise SpecError(unknown_name("PANEL", request.panel, ("primary", "full")))
    _check_paths(request)
    sweep = catalog.load_sweep(request.name)
    changes = parse_set(request.set)
    asked.check_num_items(changes)
    asked.check_layouts(changes)
    conflicts.check(sweep, changes, _given(request, changes))
    experiment = load_base(request.base, Store(request.out))
    experiment = _with_data(experiment, request.data)
    experiment = asked.with_evals(experiment, request.evals, request.suites, changes, Store(request.out))
    experiment = asked.with_samples(experiment, changes)
    if (own := asked.own_field(changes)) is not None:
        if (tasks := asked.own_tasks(own, changes)) is not None:
            experiment = _replaced(experiment, spec=experiment.spec.replace({"evals.tasks": tasks}))
        # What is asked is left alone, but one slice must be the sweep's.
        asked.with_panel(experiment, sweep, "primary", remedy=f"give one in SET {own}")
    else:
        experiment = asked.with_panel(experiment, sweep, request.panel, by_suite=request.suites is not None)
    asked.check_samples(experiment, changes)
    asked.check_laid_out(experiment, changes)
    varied = _varied_fields(sweep, changes)
    axis_values = {name: _axis_values(name, value) for name, value in changes.items() if name in varied}
    fixed = {name: value for name, value in changes.items() if name not in axis_values}
    runtime = {name.removeprefix("runtime."): v for name, v in fixed.items() if name.startswith("runtime.")}
    fields = {name: value for name, value in fixed.items() if not _is_special(name)}
    experiment = _replaced(experiment, runtime=_with_runtime(experiment.runtime, runtime))
    asked.check_val(sweep, experiment.spec, dict(sweep.set) | fields)
    return Setting(
        sweep=sweep,
        experiment=experiment,
        fields=dict(sweep.set) | fields,
        axis_values=axis_values,
        set_hash=_set_hash(request, experiment, {n: v for n, v in changes.items() if not n.startswith("runtime.")}),
    )


def resolve_spec(request: Request) -> tuple[str, TrialSpec]:
    """Return the name of a base's experiment and its own spec, with data, evaluation and SET applied; no sweep is read.

    Raises:
        SpecError: an unknown name or field, or an invalid value.
        ModelError: the base is not usable.
        DataError: the data or evaluation files are not usable.
    """
    _check_paths(request)
    changes = parse_set(request.set)
    asked.check_num_items(changes)
    asked.check_layouts(changes)
    experiment = load_base(request.base, Store(request.out))
    experiment = _with_data(experiment, request.data)
    experiment = asked.with_evals(experiment, request.evals, request.suites, changes, Store(request.out))
    experiment = asked.with_samples(experiment, changes)
    fields = {name: value for name, value in changes.items() if not _is_special(name)}
    of_world = {name: value for name, value in fields.items() if name.startswith(worlds.PREFIX)}
    others = {name: value for name, value in fields.items() if name not in of_world}
    return experiment.name, worlds.applied(experiment.spec, of_world).replace(others)


def _is_special(name: str) -> bool:
    """Return whether a field of SET is no field of a trial's spec, having been applied elsewhere."""
    return name.startswith("runtime.") or name in asked.OF_TASKS


def _check_paths(request: Request) -> None:
    """Refuse what no file system takes as a path, which would end in an error of the system's at its first use."""
    _check_secrets(request)
    for name, path in (("BASE", request.base), ("DATA", request.data), ("EVALS", request.evals)):
        if path is not None:
            _check_path(name, path)
    check_out(request.out)


def _check_path(name: str, path: str) -> None:
    longest = max(len(part) for part in os.fsencode(path.replace("\0", "")).split(b"/"))
    if "\0" in path or longest > LONGEST_NAME or len(os.fsencode(path)) > LONGEST_PATH:
        rule = f"a path of at most {LONGEST_PATH} bytes, {LONGEST_NAME} a name, without NUL"
        raise SpecError(f"{name} is {shown(path)}, but must be {rule}; shorten it.")


def check_out(out: Path) -> None:
    """Refuse an output folder that is something else already, or no path at all.

    Raises:
        SpecError: it is.
    """
    _check_path("OUT", str(out))
    try:
        usable = out.is_dir() or not os.path.lexists(out)
    except OSError:
        usable = False
    if not usable:
        raise SpecError(f"OUT is {shown(str(out))}, but must be a folder, or a path where one can be made.")


def _check_secrets(request: Request) -> None:
    """Refuse what holds a secret, because records and the commands in them keep it."""
    given = {field.name.upper(): getattr(request, field.name) for field in fields(request)}
    for name, value in given.items():
        text = "" if value is None else str(value)
        places = (text, os.path.abspath(text), os.path.realpath(text)) if "/" in text and "\0" not in text else (text,)
        if any(map(holds_secret, places)):
            raise SpecError(
                f"{name} is {shown(text)}, but must hold no secret, because records keep it; rename what it means, or "
                "give it in the environment."
            )


def _given(request: Request, changes: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields that another variable than SET gives, and its name."""
    given = {"data.source": "DATA"} if request.data is not None else {}
    if request.suites is not None or request.evals is not None:
        return given | {"evals.tasks": "EVALS" if request.suites is None else "SUITES"}
    if request.panel != "primary":
        return given | {"evals.tasks": "PANEL"}
    named = [name for name in asked.OF_TASKS if name in changes]
    return given | ({"evals.tasks": named[0]} if named else {})


def _with_runtime(runtime: Runtime, changes: Mapping[str, Any]) -> Runtime:
    try:
        return runtime.replace(changes)
    except SpecError as error:
        raise SpecError(f"runtime.{problem}" for problem in error.problems) from None


def load_base(base: str, store: Store) -> Experiment:
    """Return the experiment of a base: a name in experiments/, a path to a model folder, or `trial:<id>`.

    Raises:
        SpecError: no such experiment or trial.
        ModelError: the folder is not a complete model, or the trial kept no weights.
    """
    if base.startswith("trial:"):
        return _trial_experiment(base.removeprefix("trial:"), store)
    if "/" in base or base.startswith((".", "~")):
        return _folder_experiment(Path(base).expanduser())
    return catalog.load_experiment(base)


def _folder_experiment(path: Path) -> Experiment:
    from experiments import folder
    from harness import models

    reference = models.describe_folder(path)
    files = models.inspect_folder(path, sha256_of=models.planned_sha256)
    return folder.from_folder(reference, has_chat_template=files.has_chat_template, context=files.context)


def _trial_experiment(prefix: str, store: Store) -> Experiment:
    folders = store.root / "trials"
    found = sorted(path.name for path in folders.glob(f"{prefix}*")) if prefix.isalnum() else []
    if len(found) != 1:
        raise SpecError(
            f"BASE is 'trial:{prefix}', but must name exactly one trial of {folders} ({len(found)} match); "
            "the ids are in the report's trials.csv."
        )
    standing = result.read(store.trial(found[0]))
    if standing is None:
        raise ModelError(f"BASE is 'trial:{prefix}', but that trial has no result yet; run its sweep first.")
    if not (store.trial(found[0]) / "weights" / MANIFEST).is_file():
        raise ModelError(
            f"BASE is 'trial:{prefix}', but that trial kept no weights; "
            f"run: python -m harness run-trial {found[0]} --keep all --out {shlex.quote(str(store.root))}"
        )
    root = _root_experiment(standing.spec, store)
    spec = root.spec.replace({"base": TrialBase(trial_id=found[0])})
    return _replaced(root, name=f"trial-{found[0][:12]}", spec=spec)


def _root_experiment(spec: TrialSpec, store: Store) -> Experiment:
    while isinstance(spec.base, TrialBase):
        parent = result.read(store.trial(spec.base.trial_id))
        if parent is None:
            raise ModelError(f"trial {spec.base.trial_id} has no result, but a trial that started from it is the BASE.")
        spec = parent.spec
    shipped = list(_shipped_experiments())
    for candidate in shipped:
        if candidate.spec.base == spec.base:
            return candidate
    if isinstance(spec.base, FolderBase):
        return load_base(str(Path(spec.base.path).resolve()), store)
    for candidate in shipped:
        if isinstance(spec.base, PocketBase) and isinstance(candidate.spec.base, PocketBase):
            return _on_pocket_base(candidate, spec.base)
    raise ModelError(f"the base that this trial started from ({spec.base.kind}) belongs to no experiment that ships.")


def _shipped_experiments() -> Iterator[Experiment]:
    for name in catalog.experiment_names():
        # One on a hub model that is not pinned yet refuses; no trial can have started from it.
        with contextlib.suppress(ModelError):
            yield catalog.load_experiment(name)


def _on_pocket_base(experiment: Experiment, base: PocketBase) -> Experiment:
    """Return a pocket experiment on another pocket base, with rows and items of that one's world."""
    world = {worlds.PREFIX + name: value for name, value in base.world.model_dump(mode="json").items()}
    return _replaced(experiment, spec=worlds.applied(experiment.spec, world).replace({"base": base}))


def _replaced(experiment: Experiment, **changes: Any) -> Experiment:
    # Every changed part is itself validated, and Experiment's own validator looks at sizes only.
    return experiment.model_copy(update=changes)


def _with_data(experiment: Experiment, data: str | None) -> Experiment:
    if data is None:
        return experiment
    from harness.data import sources

    path = Path(data).expanduser()
    if not path.is_file():
        raise DataError(
            f"DATA is {data!r}, but must be a JSON-lines or Parquet file; there is none at {path.absolute()}."
        )
    spec = experiment.spec.replace({"data.source": sources.describe_file(path)})
    return _replaced(experiment, spec=spec, represented=(), adjacent=())  # what these rows teach, nobody declared


# -- SET --------------------------------------------------------------------------------------------------------------


def parse_set(text: str | None) -> dict[str, Any]:
    """Return the fields of `SET=`, a JSON object.

    Raises:
        SpecError: it is not a JSON object, names a field twice or holds a number that JSON does not have.
    """
    if text is None or not text.strip():
        return {}
    rule = 'but must be a JSON object of dotted fields, such as {"train.batch_size": 8}'
    try:
        tree = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"SET is {shown(text)}, {rule} ({error}).") from None
    if not isinstance(tree, dict) or _depth(tree) > DEEPEST:
        raise SpecError(f"SET is {shown(text)}, {rule}, at most {DEEPEST} deep.")
    for name, value in tree.items():
        if len(name) > LONGEST_FIELD:
            raise SpecError(f"SET {shown(name)} is no field, but must be one, of at most {LONGEST_FIELD} characters.")
        if any("\ud800" <= letter <= "\udfff" for letter in json.dumps([name, value], ensure_ascii=False)):
            raise SpecError(
                f"SET {shown(name)} is {shown(value)}, but must be text: half a surrogate pair is no character."
            )
    return tree


def _depth(tree: Any) -> int:
    """Return how many objects and lists are inside one another, at most one more than is allowed."""
    level, depth = [tree], 0
    while (level := [node for node in level if isinstance(node, dict | list)]) and depth <= DEEPEST:
        level = [inner for node in level for inner in (node.values() if isinstance(node, dict) else node)]
        depth += 1
    return depth


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a field is named twice")
    return tree


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _varied_fields(sweep: Sweep | Study, changes: Mapping[str, Any]) -> set[str]:
    """Return the fields whose values SET replaces rather than fixes: axes, seeds, and worlds as replicates."""
    if isinstance(sweep, Study):
        return {"seed"}
    over_worlds = bool(sweep.worlds) or isinstance(changes.get(WORLD_SEED), list)
    return {axis.field for axis in sweep.axes} | {"seed"} | ({WORLD_SEED} if over_worlds else set())


def _axis_values(name: str, value: Any) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, list) else (value,)
    if not values and name != WORLD_SEED:
        raise SpecError(f"SET {name} is [], but must hold at least one value.")
    if len(set(map(repr, values))) != len(values):
        raise SpecError(f"SET {name} is {shown(value)}, but must not repeat a value.")
    if name in ("seed", WORLD_SEED) and not all(type(v) is int and v >= 0 for v in values):
        raise SpecError(f"SET {name} is {shown(value)}, but must be integers from 0 on.")
    return values


def _set_hash(request: Request, experiment: Experiment, changes: Mapping[str, Any]) -> str | None:
    changed: dict[str, Any] = {"set": changes} if changes else {}
    if request.data is not None:
        changed["data"] = canonical_json(experiment.spec.data.source)
    if request.evals is not None or request.suites is not None:
        changed["evals"] = canonical_json(experiment.spec.evals)
    if request.panel != "primary":
        changed["panel"] = request.panel
    if not changed:
        return None
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
