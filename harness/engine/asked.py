"""Which slices a request asks: those of the base, of a folder or of suites, less what a panel leaves out.

Invariant: torch-free, reads but writes nothing, and what is asked for and cannot be had is named in the log or refused.
What does not live here: the rest of a request (resolve.py), the catalogue of suites (harness/evals/suites.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.engine import catalog
from harness.errors import DataError, SpecError, shown, unknown_name
from harness.evals import suites as catalogue
from harness.evals.folder import describe_folder
from harness.evals.items import load
from harness.evals.layouts import FORMS
from harness.evals.suites import TWIN
from harness.models.locate import hub_key
from harness.pocket.world import SLICES
from harness.records.store import Store
from harness.spec import (
    LAID_OUT,
    SAMPLED,
    EvalTask,
    Experiment,
    FileItems,
    HubItem,
    Layout,
    Study,
    Sweep,
    TrialSpec,
    read_lock,
)
from harness.spec.claim import metric_keys
from harness.spec.metrics import metrics_of

logger = logging.getLogger(__name__)

ITEMS = "evals.num_items"
"""In SET: the most items that each task asks; null is all."""
LAYOUTS = "evals.layouts"
"""In SET: layouts in which every primary slice with a question is asked once more, as `<name>_<layout>`."""
VAL_SHARE = "evals.val_share"
HUB = "hub:"
"""Begins EVALS where its files are a dataset of the hub: `hub:owner/name`."""
SAMPLES = "evals.num_samples"
"""In SET: the answers sampled to each item of every task that can have them."""
TEMPERATURE = "evals.temperature"
"""In SET: of the sampled answers."""
OF_TASKS = (ITEMS, LAYOUTS, SAMPLES, TEMPERATURE)
"""Of these none is a field of the spec: they change the tasks."""
NUM_ITEMS = 100
"""Items asked of each file of an evaluation folder, where SET evals.num_items says nothing else."""


def with_evals(
    experiment: Experiment, evals: str | None, suites: str | None, changes: Mapping[str, Any], store: Store
) -> Experiment:
    """Return an experiment that asks the files of a folder, or suites out of it, in place of its own slices.

    Args:
        experiment: whose slices are replaced.
        evals: a folder, or `hub:owner/name`, a dataset that `make fetch` has pinned and fetched.
        suites: names of the catalogue with commas between.
        changes: SET.
        store: where fetched datasets lie.

    Raises:
        SpecError: an unknown suite, or no name of a dataset after `hub:`.
        DataError: the folder or its files are not usable, not fetched, or hold nothing that is asked for.
    """
    spec = experiment.spec
    tasks = spec.evals.tasks
    folder = None if evals is None else _folder(evals, store)
    num_items = changes.get(ITEMS, NUM_ITEMS)
    if suites is not None:
        tasks = _suite_tasks(suites, folder, num_items)
    elif evals is not None and folder is not None:
        tasks = describe_folder(folder, num_items=num_items)
        _check_names(evals, tasks)
    elif ITEMS in changes:
        tasks = tuple(task.replace({"num_items": changes[ITEMS]}) for task in tasks)
    if LAYOUTS in changes:
        tasks = _in_layouts(tasks, changes[LAYOUTS])
    return experiment.model_copy(update={"spec": _with_tasks(spec, tasks)})


def hub_item(evals: str) -> HubItem:
    """Return the dataset that `hub:owner/name` names.

    Raises:
        SpecError: that is no name of a dataset.
    """
    try:
        # A path, which no `hub:` begins, is no name either: it has nothing to fetch.
        return HubItem(repo_id=evals.removeprefix(HUB) if evals.startswith(HUB) else "", repo_type="dataset")
    except ValueError as error:
        raise SpecError(f"EVALS is {evals!r}, but must be {HUB}owner/name of a dataset, or a folder") from error


def _folder(evals: str, store: Store) -> Path:
    if not evals.startswith(HUB):
        return Path(evals).expanduser()
    item = hub_item(evals)
    pin = read_lock(catalog.HUB_LOCK).get(item.lock_key)
    key = hub_key(item.repo_type, item.repo_id, pin["revision"]) if pin else ""
    if pin is None or not store.has_artefact("fetched", key):
        raise DataError(
            f"EVALS is {evals!r}, but must be pinned and fetched first; run make fetch EVALS={evals} where there is a "
            "network"
        )
    return store.artefact("fetched", key)


def _suite_tasks(suites: str, folder: Path | None, num_items: int | None) -> tuple[EvalTask, ...]:
    names = [name.strip() for name in suites.split(",") if name.strip()]
    tasks = catalogue.suite_tasks(names, folder, num_items=num_items)
    for said in catalogue.missing_files(names, folder):
        logger.warning("%s", said)
    return tasks


def _in_layouts(tasks: Iterable[EvalTask], layouts: Iterable[Layout]) -> tuple[EvalTask, ...]:
    """Return tasks, each primary one followed by itself in every layout that its items have; the others are named."""
    made: list[EvalTask] = []
    for task in tasks:
        made.append(task)
        if not task.primary or task.kind not in LAID_OUT or task.layout != "as_is":
            continue
        for layout in layouts:
            if layout.startswith("choices_") and task.kind != "multiple_choice":
                continue
            again = task.replace({"name": f"{task.name}_{layout}", "layout": layout, "primary": False})
            try:
                load(again)
            except DataError as error:
                logger.warning("%s is not asked: %s", again.key, error)
            else:
                made.append(again)
    return tuple(made)


def _check_names(evals: str, tasks: Iterable[EvalTask]) -> None:
    files: dict[str, str] = {}
    for task in tasks:
        path = task.source.path if isinstance(task.source, FileItems) else ""
        if task.key in files:
            raise DataError(
                f"EVALS is {evals!r}, but must hold files of different names: {files[task.key]} and {path} are both "
                f"the slice {task.key!r}; rename one."
            )
        files[task.key] = path


def own_field(changes: Mapping[str, Any]) -> str | None:
    """Return the field of SET that gives the slices themselves: no panel chooses among them."""
    return next((name for name in ("evals", "evals.tasks") if name in changes), None)


def own_tasks(own: str, changes: Mapping[str, Any]) -> Any:
    """Return the slices that SET gives; its other fields of evals are checked with the rest of the trial."""
    if own == "evals.tasks":
        return changes[own]
    return changes[own].get("tasks") if isinstance(changes[own], dict) else None


def with_samples(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Return an experiment that samples answers to the slices that can have them, where SET asks for it.

    Raises:
        SpecError: a number or temperature that cannot be.
    """
    given = {name.removeprefix("evals."): changes[name] for name in (SAMPLES, TEMPERATURE) if name in changes}
    if not given:
        return experiment
    try:
        made = tuple(task.replace(given) if task.kind in SAMPLED else task for task in experiment.spec.evals.tasks)
    except SpecError as error:
        raise SpecError(f"SET evals.{problem}" for problem in dict.fromkeys(error.problems)) from None
    return experiment.model_copy(update={"spec": _with_tasks(experiment.spec, made)})


def check_samples(experiment: Experiment, changes: Mapping[str, Any]) -> None:
    """Refuse to sample answers where nothing that is asked can have them.

    Args:
        experiment: its slices are those that will be asked, a panel applied.
        changes: SET.

    Raises:
        SpecError: no slice can have them.
    """
    named = [name for name in (SAMPLES, TEMPERATURE) if name in changes]
    if named and not any(task.kind in SAMPLED for task in experiment.spec.evals.tasks):
        raise SpecError(
            f"SET names {' and '.join(named)}, but must leave it out where no slice is of kind {', '.join(SAMPLED)}; "
            "ask one with EVALS, SUITES or PANEL=full."
        )


def check_laid_out(experiment: Experiment, changes: Mapping[str, Any]) -> None:
    """Refuse layouts in which nothing is asked.

    Args:
        experiment: its slices are those that will be asked, a panel applied.
        changes: SET.

    Raises:
        SpecError: no slice is laid out in any of them.
    """
    if LAYOUTS not in changes:
        return
    wanted = {str(layout) for layout in changes[LAYOUTS]}
    if not any(task.layout in wanted for task in experiment.spec.evals.tasks):
        raise SpecError(
            f"SET names {LAYOUTS}, but must leave it out where no primary slice of the sweep's measures can be "
            f"asked in {', '.join(sorted(wanted))}; ask a question with EVALS or SUITES."
        )


def samples_of(experiment: Experiment) -> list[str]:
    """Return one sentence for each way in which answers are sampled, and to which slices; none where none are."""
    slices: dict[tuple[int, float], list[str]] = {}
    for task in experiment.spec.evals.tasks:
        if task.num_samples:
            slices.setdefault((task.num_samples, task.temperature), []).append(task.key)
    return [
        f"{num_samples} answers at temperature {temperature:g} are sampled to every item of {', '.join(keys)}, before "
        "and after"
        for (num_samples, temperature), keys in slices.items()
    ]


def check_num_items(changes: Mapping[str, Any]) -> None:
    """Refuse a number of items that cannot be.

    Raises:
        SpecError: it is neither a positive integer nor null.
    """
    value = changes.get(ITEMS)
    if value is not None and (type(value) is not int or value < 1):
        raise SpecError(f"SET {ITEMS} is {shown(value)}, but must be an integer from 1 on, or null for all items.")


def check_layouts(changes: Mapping[str, Any]) -> None:
    """Refuse layouts that cannot be.

    Raises:
        SpecError: not a list of different layouts other than `as_is`.
    """
    value = changes.get(LAYOUTS)
    if LAYOUTS not in changes:
        return
    if not isinstance(value, list) or not value or len(set(map(repr, value))) != len(value):
        raise SpecError(f"SET {LAYOUTS} is {value!r}, but must be a list of different layouts: {', '.join(FORMS)}.")
    if problems := [unknown_name(f"SET {LAYOUTS}", str(name), FORMS) for name in value if str(name) not in FORMS]:
        raise SpecError(problems)


def check_val(sweep: Sweep | Study, spec: TrialSpec, fields: Mapping[str, Any]) -> None:
    """Refuse a study, or a sweep with a selection, whose trials have no val items to choose on.

    Args:
        sweep: what chooses, perhaps.
        spec: the experiment's.
        fields: what the sweep and SET fix; a value that is no share is refused elsewhere.

    Raises:
        SpecError: some of its trials have none.
    """
    if isinstance(sweep, Sweep) and sweep.selection is None:
        return
    whole = fields.get("evals")
    shares = [whole.get("val_share") if isinstance(whole, dict) else spec.evals.val_share]
    shares = [fields[VAL_SHARE]] if VAL_SHARE in fields else shares
    if isinstance(sweep, Sweep):
        shares += [value for arm in sweep.arms for name, value in arm.set if name == VAL_SHARE]
        shares += [value for axis in sweep.axes if axis.field == VAL_SHARE for value in axis.values]
    else:
        shares += [v for one in sweep.space if one.field == VAL_SHARE for v in (one.low, *one.choices)]
    if any(share == 0 for share in shares):
        chooser = "a selection" if isinstance(sweep, Sweep) else "a study"
        raise SpecError(
            f"{VAL_SHARE} is 0, but must be above 0 in {sweep.name!r}: {chooser} chooses on val items, never on those "
            f"of its tables; set {VAL_SHARE}, such as 0.2."
        )


def with_panel(
    experiment: Experiment,
    sweep: Sweep | Study,
    panel: str,
    *,
    by_suite: bool = False,
    remedy: str = "give EVALS= a folder of items, or PANEL=full",
) -> Experiment:
    """Return an experiment that asks what a panel holds.

    Args:
        experiment: its slices are chosen from.
        sweep: whose measures and named slices count.
        panel: `primary` or `full`.
        by_suite: the slices are of suites that were asked for by name: all of them are kept but the chat twins.
        remedy: what to do where nothing is left.

    Raises:
        SpecError: no primary slice is of the sweep's measures, or it names a slice or metric that there is not.
    """
    tasks = experiment.spec.evals.tasks
    primary = tuple(t for t in tasks if t.primary and t.measure in sweep.measures)
    named = _named_slices(tasks, sweep) if isinstance(sweep, Sweep) else set[str]()
    laid_out = {task.key for task in tasks if task.layout != "as_is" and task.measure in sweep.measures}
    named |= {key for key in laid_out if not key.endswith(TWIN)}
    named |= {task.key for task in tasks if by_suite and not task.name.endswith(TWIN)}
    chosen = tasks if panel == "full" else tuple(t for t in tasks if t in primary or t.key in named)
    if not (chosen if panel == "full" else primary):
        raise SpecError(
            f"evals.tasks has no primary slice of {', '.join(sweep.measures)} on base {experiment.name!r}, but must "
            f"have at least one; {remedy}."
        )
    return experiment.model_copy(update={"spec": _with_tasks(experiment.spec, chosen)})


def _named_slices(tasks: Iterable[EvalTask], sweep: Sweep) -> set[str]:
    """Return the keys of the slices that a sweep names besides its measures: its own, and those of its claims."""
    keys = {task.name: task.key for task in tasks}
    problems = [unknown_name("slices", name, keys) for name in sweep.slices if name not in keys]
    problems += _claim_problems({task.key: task for task in tasks}, sweep)
    if problems:
        raise SpecError(problems)
    return {keys[name] for name in sweep.slices} | {key.rpartition("/")[0] for key in metric_keys(sweep.claims)}


def _claim_problems(tasks: Mapping[str, EvalTask], sweep: Sweep) -> Iterator[str]:
    """Yield one sentence for each metric of a claim that no base has; a slice that this base is not asked is none."""
    for key in sorted(metric_keys(sweep.claims)):
        slice_key, _, metric = key.rpartition("/")
        suite, _, name = slice_key.partition("/")
        if (task := tasks.get(slice_key)) is not None:
            if metric not in metrics_of(task):
                yield unknown_name(f"claims metric of {slice_key}", metric, metrics_of(task))
        elif suite == "pocket" and name not in SLICES:
            yield unknown_name("claims metric of the slice", name, SLICES)


def _with_tasks(spec: TrialSpec, tasks: tuple[EvalTask, ...]) -> TrialSpec:
    return spec.replace({"evals.tasks": [json.loads(task.model_dump_json()) for task in tasks]})
