"""One trial, from spec to record: whoever reads `run_trial` has seen the architecture.

    spec -> plan -> data -> model -> audit -> method -> train -> evaluate -> record -> frame -> report

Invariant: the record is committed last and at once; until then nothing counts. What does not live here: who calls this,
where, and how often (engine).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness import data, evals, methods, models, train
from harness.identity import trial_id
from harness.records import leftovers, result
from harness.records.provenance import Clock
from harness.records.schema import ResolvedIdentity, TrialResult
from harness.records.store import Store, write_atomic
from harness.spec import Quantisation, Runtime, TrialSpec


@dataclass(frozen=True)
class TrialContext:
    """Where a trial runs. Nothing here moves a number at a fixed thread count."""

    store: Store
    runtime: Runtime
    command: str
    """Reruns this trial; printed beside its row."""
    report: Callable[..., None]
    """Called as `report(phase=..., step=..., num_steps=..., loss=..., tokens_per_second=...)`."""
    processes: train.Processes = train.ALONE
    """Those that train this trial's model together."""

    eval_halvings: models.Halvings = field(default_factory=models.Halvings)
    """How often the rows of an evaluation are halved for want of memory, in this trial."""

    def __post_init__(self) -> None:
        self.eval_halvings.count = self.runtime.num_eval_halvings


def run_trial(spec: TrialSpec, context: TrialContext) -> TrialResult:
    """Run one trial and commit its record.

    Raises:
        HarnessError: bad data, a missing base, a full disk; a divergence is a result, not an error.
    """
    folder = open_folder(spec, context)
    clock = Clock(context.command, context.runtime)
    base = models.locate(spec.base, context.store)
    chat = data.chat_format(models.load_tokenizer(base), spec.data)
    kept_out, leaked = evals.kept_out(spec), evals.leaked(spec)
    rows = data.prepare(spec.data, chat, seed=spec.seed, store=context.store, kept_out=kept_out, leaked=leaked)
    quantisation = methods.quantisation(spec.method)
    model = models.load_model(base, spec.train.dtype, context.runtime.device, quantisation)
    models.add_rows(model, chat.tokenizer, chat.added)
    asked, splits = evals.asked_texts(spec.evals), evals.overlaps_of(spec.evals)
    train.require_sound(model, rows, chat, spec, asked=asked, folder=folder, splits=splits)
    tuned = methods.attach(model, spec.method, seed=spec.seed, added=chat.added)
    sample = evals.sampler(chat, rows.sample_prompts, spec.evals, context.eval_halvings)
    targets = evals.targets_of(rows.train, chat)
    size, halvings = context.runtime.eval_batch_size, context.eval_halvings
    watched = evals.watch(chat, spec, targets, batch_size=size, halvings=halvings)
    with clock.training():
        summary = train.fit(
            tuned,
            rows,
            spec.train,
            seed=spec.seed,
            context=context,
            folder=folder,
            sample=sample,
            watched=watched,
            processes=context.processes,
        )
    methods.save(tuned, spec.method, folder / "weights", context.runtime.keep, chat.tokenizer, chat.stop_token_ids)
    with clock.evaluating():
        after = evals.score_after(tuned, chat, spec.evals, context, folder, summary, targets)
        drift = evals.probe(tuned, base, chat, rows, spec, context, folder, summary, targets)
        # Measured once by whoever comes first; asked for last, so that another worker can measure it meanwhile.
        before, before_full_precision = evals.score_before(base, chat, spec, context, quantisation)
    standing = result.commit(
        folder,
        TrialResult(
            trial_id=trial_id(spec),
            state="DIVERGED" if summary.divergence else "COMPLETE",
            spec=spec,
            resolved=resolved_identity(spec, base, rows, quantisation),
            data=rows.summary,
            train=summary.model_copy(update={"num_eval_halvings": halvings.count}),
            before=before,
            before_full_precision=before_full_precision,
            after=after,
            drift=drift,
            provenance=clock.read(
                device=str(model.device), num_tokens=summary.num_tokens, held=methods.held_bytes(tuned)
            ),
        ),
    )
    leftovers.sweep_finished(folder)
    return standing


def train_along(spec: TrialSpec, context: TrialContext) -> None:
    """Train a trial's model as one of several processes that is not the main one, and write nothing.

    Raises:
        HarnessError: as `run_trial`, up to the end of training.
    """
    base = models.locate(spec.base, context.store)
    chat = data.chat_format(models.load_tokenizer(base), spec.data)
    kept_out, leaked = evals.kept_out(spec), evals.leaked(spec)
    rows = data.prepare(spec.data, chat, seed=spec.seed, store=context.store, kept_out=kept_out, leaked=leaked)
    model = models.load_model(base, spec.train.dtype, context.runtime.device, methods.quantisation(spec.method))
    models.add_rows(model, chat.tokenizer, chat.added)
    tuned = methods.attach(model, spec.method, seed=spec.seed, added=chat.added)
    watched = evals.watch(chat, spec, evals.targets_of(rows.train, chat), batch_size=context.runtime.eval_batch_size)
    train.fit(
        tuned,
        rows,
        spec.train,
        seed=spec.seed,
        context=context,
        folder=context.store.trial(trial_id(spec)),
        sample=lambda model, phase: [],
        watched=watched,
        processes=context.processes,
    )


def open_folder(spec: TrialSpec, context: TrialContext) -> Path:
    """Create the trial's folder with the recipe in it, and return it."""
    folder = context.store.trial(trial_id(spec))
    write_atomic(folder / "spec.json", spec.model_dump_json(indent=1).encode())
    return folder


def resolved_identity(
    spec: TrialSpec, base: models.BaseFiles, rows: data.PreparedData, quantisation: Quantisation | None
) -> ResolvedIdentity:
    """Return what the recipe resolved to on this machine."""
    return ResolvedIdentity(
        weights_sha256=base.weights_sha256,
        tokenizer_sha256=base.tokenizer_sha256,
        quantisation=str(quantisation) if quantisation else None,
        rows_sha256=rows.summary.rows_sha256,
        items_sha256=evals.items_sha256(spec.evals),
    )
