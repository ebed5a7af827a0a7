"""Jobs around the trials: the base model, the check of device, data and template, the before-scores.

Invariant: each is a cache entry - done by someone else, or twice, it changes nothing. Runs in workers; free of torch at
import. What does not live here: the trials themselves (worker.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.engine.progress import Reporter
from harness.engine.worker import import_all, output_to, set_threads
from harness.identity import base_key, canonical
from harness.records.schema import PlannedTrial
from harness.records.store import Store
from harness.spec import BaseRef, PocketBase, QLoraConfig, Runtime, TrialSpec, WorldSpec

if TYPE_CHECKING:
    from harness import models


@dataclass(frozen=True)
class BaseJob:
    """Pretrain a pocket base."""

    base: PocketBase
    key: str
    root: Path
    device: str
    """`auto` takes a GPU where there is one."""


@dataclass(frozen=True)
class CheckJob:
    """Look for the device, and read base, template and data of each spec."""

    specs: tuple[TrialSpec, ...]
    root: Path
    runtime: Runtime


@dataclass(frozen=True)
class BeforeJob:
    """Score the base of a trial."""

    spec: TrialSpec
    root: Path
    runtime: Runtime


@dataclass(frozen=True)
class ContinueJob:
    """Continue raw texts with the base of a trial."""

    spec: TrialSpec
    root: Path
    runtime: Runtime
    texts: tuple[str, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class ExportJob:
    """Write the slices of a pocket world as lm-eval task files, rendered for a trial's base."""

    world: WorldSpec
    spec: TrialSpec
    root: Path
    folder: Path


def missing_bases(store: Store, trials: Iterable[PlannedTrial], runtime: Runtime) -> list[BaseJob]:
    """Return the pocket bases that have to be built first, for the first time or because a file is damaged."""
    jobs: dict[str, BaseJob] = {}
    for trial in trials:
        base = trial.spec.base
        if isinstance(base, PocketBase):
            key = base_key(trial.spec)
            jobs.setdefault(key, BaseJob(base, key, store.root, runtime.device))
    return [job for job in jobs.values() if not store.is_whole("base", job.key)]


def base_progress(store: Store, key: str) -> Path:
    """Return where the building of a base reports to."""
    return store.artefact("base", key).parent / f".{key}.progress.json"


def build_base(job: BaseJob) -> None:
    """Build a base in this worker, unless another process has meanwhile."""
    from harness import models
    from harness.pocket import pretrain

    store = Store(job.root)
    set_threads(job.base.model.num_threads)
    device = models.resolve_device(job.device, job.base.model.dtype)
    reporter = Reporter(base_progress(store, job.key))
    reporter(phase="base")
    try:
        with output_to(job.root / "logs" / f"base-{job.key[:12]}.log"):
            store.ensure_artefact(
                "base", job.key, lambda folder: pretrain.build(job.base, folder, reporter, device=device)
            )
    finally:
        reporter.close()


def distinct_befores(trials: Iterable[PlannedTrial]) -> list[TrialSpec]:
    """Return one spec for each before-score that the trials will ask for."""
    first: dict[str, TrialSpec] = {}
    for trial in trials:
        spec = trial.spec
        parts = {
            "base": canonical(spec.base),
            "evals": canonical(spec.evals),
            "template": [spec.data.template, spec.data.template_date, spec.data.markers],
            "quantisation": [spec.method.quantisation, spec.method.double_quantisation]
            if isinstance(spec.method, QLoraConfig)
            else None,
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        first.setdefault(key, spec)
    return list(first.values())


def distinct_data(trials: Iterable[PlannedTrial]) -> tuple[TrialSpec, ...]:
    """Return one spec for each base, data, method and dtype of the trials, that with the most examples."""
    distinct: dict[str, TrialSpec] = {}
    for trial in trials:
        spec = trial.spec
        key = json.dumps([_data_key(spec), canonical(spec.method), spec.train.dtype])
        if key not in distinct or _num_examples(spec) > _num_examples(distinct[key]):
            distinct[key] = spec
    return tuple(distinct.values())


def _data_key(spec: TrialSpec) -> str:
    # A weight in the loss decides about no row.
    # Leaked items are as many in a small set, which they may fill.
    size = spec.data.num_examples if spec.data.leak_share else None
    data = {**canonical(spec.data), "num_examples": size, "prompt_loss_weight": None}
    evaluated = canonical(spec.evals) if spec.data.decontaminate or spec.data.leak_share else None
    return json.dumps([canonical(spec.base), data, evaluated], sort_keys=True)


def _num_examples(spec: TrialSpec) -> int:
    return spec.data.num_examples or 0


def check_devices(job: CheckJob) -> None:
    """Refuse a device or dtype that this machine lacks.

    Raises:
        DeviceError: there is no such device here, or it does not compute in a dtype.
    """
    from harness import models

    for spec in job.specs:
        models.resolve_device(job.runtime.device, spec.train.dtype)


def check(job: CheckJob) -> None:
    """Look for the device, and read base, method, template and data once, before compute is spent on them.

    Raises:
        BadInputError: a device or dtype that is not here, a half-written model, a method that does not fit it, a
            template that lacks roles, fewer usable rows than asked for, rows that cannot be trained on.
    """
    from harness import data, evals, models

    set_threads(job.runtime.num_threads)
    store = Store(job.root)
    with output_to(job.root / "logs" / "check.log"):
        check_devices(job)
        bases = {base: models.locate(base, store) for base in dict.fromkeys(spec.base for spec in job.specs)}
        _check_methods(job.specs, bases)
        largest = {_data_key(spec): spec for spec in sorted(job.specs, key=_num_examples)}
        for spec in largest.values():
            # A tokenizer for each: `chat_format` gives it the spec's template.
            chat = data.chat_format(models.load_tokenizer(bases[spec.base]), spec.data)
            kept_out, leaked = evals.kept_out(spec), evals.leaked(spec)
            data.prepare(spec.data, chat, seed=spec.seed, store=store, kept_out=kept_out, leaked=leaked)


def _check_methods(specs: Iterable[TrialSpec], bases: Mapping[BaseRef, models.BaseFiles]) -> None:
    """Try each method on its base's layers, without weights."""
    from harness import methods, models

    for base, files in bases.items():
        model = models.model_without_weights(files)
        for method in dict.fromkeys(spec.method for spec in specs if spec.base == base):
            methods.check(model, method)


def score_before(job: BeforeJob) -> None:
    """Score a base into the cache that all its trials share."""
    from harness import data, evals, methods, models
    from harness.trial import TrialContext

    set_threads(job.runtime.num_threads)
    with output_to(job.root / "logs" / "before.log"):
        store = Store(job.root)
        base = models.locate(job.spec.base, store)
        chat = data.chat_format(models.load_tokenizer(base), job.spec.data)
        context = TrialContext(store, job.runtime, "", lambda **_: None)
        evals.score_before(base, chat, job.spec, context, methods.quantisation(job.spec.method))


def continue_texts(job: ContinueJob) -> list[str]:
    """Return what the base writes after each raw text, greedily."""
    from harness import data, evals, models

    set_threads(job.runtime.num_threads)
    with output_to(job.root / "logs" / "continue.log"):
        spec = job.spec
        base = models.locate(spec.base, Store(job.root))
        chat = data.chat_format(models.load_tokenizer(base), spec.data)
        model = models.load_model(base, spec.train.dtype, job.runtime.device, None)
        models.add_rows(model, chat.tokenizer, chat.added)
        return evals.continuations(model, chat, spec.evals, job.texts, job.max_new_tokens)


def export_slices(job: ExportJob) -> int:
    """Write the task files and return their number."""
    from harness import data, models
    from harness.evals import export

    chat = data.chat_format(models.load_tokenizer(models.locate(job.spec.base, Store(job.root))), job.spec.data)
    return len(export.export_slices(job.world, job.folder, chat))


def warm_up() -> None:
    """Import what a trial uses, so that a worker is ready when its first one comes."""
    import_all()
