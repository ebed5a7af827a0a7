"""A sweep folder made of schema objects, without training: for tests of everything that reads records.

The numbers follow a known model: a condition's chance that an item becomes right grows with its level, and what it
forgets grows too; items, people (clusters) and seeds each carry their own noise. Nothing here is random across runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness.evals.table import QUESTION_SCHEMA
from harness.identity import condition_id, trial_id
from harness.records.result import commit
from harness.records.schema import (
    DataSummary,
    EvalScores,
    Failure,
    PlannedTrial,
    Progress,
    Provenance,
    ResolvedIdentity,
    Score,
    SweepRecord,
    TrainSummary,
    TrialResult,
)
from harness.records.store import Store, append_line, write_atomic
from harness.spec import Claim, DataSpec, EvalSpec, EvalTask, FileData, FileItems, FolderBase, TrainSpec, TrialSpec

SLICES = (
    ("people", "question", "generate", "learned", 240),
    ("people", "cloze", "multiple_choice", "retained", 320),
    ("skills", "addition", "greedy", "retained", 160),
    ("text", "prose", "perplexity", "fluency", 60),
    ("people", "ends_turn", "generate", "format", 80),
)
"""suite, name, kind, measure, number of items."""
METRICS = {
    "generate": ("exact_match", "end_of_turn"),
    "multiple_choice": ("acc", "acc_norm", "gold_logprob"),
    "greedy": ("acc", "logprob"),
    "perplexity": ("bits_per_byte",),
}
Outcome = str | None
"""None is COMPLETE; else DIVERGED, FAILED, PENDING, RUNNING, KILLED or DAMAGED."""


@dataclass(frozen=True)
class Plan:
    """What to make up."""

    name: str = "lima_size"
    base: str = "pocket"
    axis: str = "data.num_examples"
    values: Sequence[Any] = (25, 50, 100, 200, 400, 800)
    arms: Sequence[str] = ("equal_epochs", "equal_steps")
    seeds: Sequence[int] = (0, 1, 2)
    outcomes: dict[tuple[str, Any, int], Outcome] = field(default_factory=dict)
    """(arm, value, seed) -> what became of it."""
    selection: dict[str, str] | None = None
    effect: float = 1.0
    """0 is an A/A sweep: after is before plus noise that no condition causes."""
    output: Callable[[str, str], str] = lambda item, phase: f"{phase} answer to {item}"
    set_hash: str | None = None
    scale: float = 1.0
    """Multiplies the number of items."""
    quantised: bool = False
    claims: tuple[Claim, ...] = ()
    worlds: Sequence[int] = ()
    """Seeds of worlds that the sweep is repeated over; every world has items of its own."""
    world_effects: dict[int, float] = field(default_factory=dict)
    """world -> `effect` there, where it is another."""
    kind: Literal["sweep", "study"] = "sweep"
    arm_set: dict[str, dict[str, Any]] = field(default_factory=dict)
    """arm -> fields of the spec that it sets."""
    audited: bool = False
    """Whether trials write audit.json: one data set for each value of the axis."""
    questions: bool = False
    """Whether the base's items come with what they ask."""


def spec_of(plan: Plan, arm: str, value: Any, seed: int) -> TrialSpec:
    """Return a valid spec; only what the reports read means anything."""
    base_spec = TrialSpec(
        base=FolderBase(content_sha256="ab" * 32, path="/models/base"),
        data=_data_spec(),
        method=parse_method(plan, value),
        train=TrainSpec(**_duration(arm), **_TRAIN),
        evals=EvalSpec(tasks=_tasks(plan), items_seed=1, val_share=0.25, dtype="float32", max_length=128),
        seed=seed,
    )
    changes = dict(plan.arm_set.get(arm, {})) | ({} if plan.axis == "method" else {plan.axis: value})
    return base_spec.replace(changes) if changes else base_spec


def parse_method(plan: Plan, value: Any) -> Any:
    """Return the method that an axis value names, LoRA where the axis is another."""
    from harness.spec import FullConfig, LoraConfig, QLoraConfig

    kinds = {
        "full": FullConfig(),
        "lora": LoraConfig(rank=8, alpha=16.0, target_modules="all_linear"),
        "qlora": QLoraConfig(rank=8, alpha=16.0, target_modules="all_linear"),
    }
    return kinds[value if plan.axis == "method" else "lora"]


def _duration(arm: str) -> dict[str, Any]:
    return {"num_steps": 150} if arm == "equal_steps" else {"num_epochs": 3.0}


_TRAIN: dict[str, Any] = {
    "batch_size": 8,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "max_grad_norm": 1.0,
    "dtype": "float32",
    "loss_reduction": "token_mean",
    "loss_limit": 50.0,
}


def _data_spec() -> DataSpec:
    return DataSpec(
        source=FileData(sha256="cd" * 32, format="messages", path="/data/chats.jsonl"),
        num_examples=400,
        num_validation=50,
        template="chatml",
        max_length=256,
        too_long="drop",
        prompt_loss_weight=0.0,
        train_on_end_of_turn=True,
        packing="off",
    )


def _tasks(plan: Plan) -> tuple[EvalTask, ...]:
    return tuple(
        EvalTask(
            suite=suite,
            name=name,
            kind=kind,
            source=FileItems(sha256="ef" * 32, path=f"/items/{name}.jsonl"),
            measure=measure,
            primary=True,
            chat=kind == "generate",
            num_items=_num_items(plan, count),
            max_new_tokens=32 if kind == "generate" else 0,
        )
        for suite, name, kind, measure, count in SLICES
    )


def _num_items(plan: Plan, count: int) -> int:
    return max(1, round(count * plan.scale))


# -- records ----------------------------------------------------------------------------------------------------------


def build(root: Path, plan: Plan = Plan()) -> tuple[Store, str]:
    """Write a sweep folder and all its trials; return the store and the sweep's folder name."""
    store = Store(root)
    folder = f"{plan.name}@{plan.base}" + (f"-{plan.set_hash}" if plan.set_hash else "")
    worlds = plan.worlds or (None,)
    all_cells = [(a, value, seed, w) for a in plan.arms for value in plan.values for w in worlds for seed in plan.seeds]
    cells = [cell[:3] for cell in all_cells]
    planned = tuple(_planned(plan, *cell) for cell in all_cells)
    write_atomic(store.sweep(folder) / "sweep.json", _sweep_record(plan, planned).model_dump_json(indent=1).encode())
    _write_before(store, plan)
    for cell, trial in zip(cells, planned, strict=True):
        if not (store.trial(trial.trial_id) / "result.json").exists():
            _write_trial(store, plan, cell, trial)
    return store, folder


def _planned(plan: Plan, arm: str, value: Any, seed: int, world: int | None) -> PlannedTrial:
    plain = spec_of(plan, arm, value, seed)
    # This base names no world; another field stands for it in the fingerprint.
    spec = plain if world is None else plain.replace({"evals.items_seed": 1000 + world})
    return PlannedTrial(
        trial_id=trial_id(spec),
        condition_id=condition_id(plain),
        arm=arm,
        axes={plan.axis: value},
        seed=seed,
        spec=spec,
        world=world,
    )


def _sweep_record(plan: Plan, planned: tuple[PlannedTrial, ...]) -> SweepRecord:
    measures: dict[str, list[str]] = {}
    for suite, name, _, measure, _ in SLICES:
        measures.setdefault(measure, []).append(f"{suite}/{name}")
    return SweepRecord(
        name=plan.name,
        base=plan.base,
        kind=plan.kind,
        set_hash=plan.set_hash,
        hypothesis="Format and style are learned from about 100 examples; skill and facts keep rising with more.",
        refuted_if="the format measure still rises by 0.05 between 200 and 800 examples, or learned is flat",
        source="LIMA (arXiv:2305.11206), Raghavendra et al. (arXiv:2410.03717)",
        command=f"make sweep NAME={plan.name} BASE={plan.base}",
        measures={measure: tuple(keys) for measure, keys in measures.items()},
        axis_fields=(plan.axis,),
        selection=plan.selection,
        trials=planned,
        claims=plan.claims,
    )


def items_of(plan: Plan, level: float, noise: np.random.Generator | None, world: int | None = None) -> pd.DataFrame:
    """Return per-item rows: of the base where `noise` is None, else of a model trained at a level in [0, 1]."""
    rows: list[dict[str, Any]] = []
    for position, (suite, name, kind, measure, count) in enumerate(SLICES):
        latent = np.random.default_rng(position if world is None else [world, position]).uniform(
            size=(_num_items(plan, count), 2)
        )
        seed_shift = 0.0 if noise is None else float(noise.normal(0, 0.02))
        effect = plan.effect if world is None else plan.world_effects.get(world, plan.effect)
        share = _right_share(measure, level if noise is not None else None, effect) + seed_shift
        jitter = 0.0 if noise is None else noise.normal(0, 0.08, size=len(latent))
        right = (latent[:, 0] + jitter < share).astype(float)
        for index in range(len(latent)):
            rows += _item_rows(plan, (suite, name, kind), index, right[index], level, noise)
    return pd.DataFrame(rows)


def _right_share(measure: str, level: float | None, effect: float) -> float:
    start = {"learned": 0.15, "retained": 0.7, "fluency": 0.5, "format": 0.02}[measure]
    if level is None:
        return start
    ends = {"learned": 0.62 * level, "retained": -0.25 * level**2, "fluency": 0.0, "format": 0.97 * min(1, level * 3)}
    return start + effect * ends[measure]


def _item_rows(
    plan: Plan, task: tuple[str, str, str], index: int, right: float, level: float, noise: Any
) -> list[dict[str, Any]]:
    suite, name, kind = task
    worse = 0.0 if noise is None else plan.effect * 0.12 * level + float(noise.normal(0, 0.01))
    values = {
        "bits_per_byte": 1.2 + 0.002 * (index % 50) + worse,
        "gold_logprob": -1.5 - worse + 0.01 * (index % 7),
        "logprob": -0.8 - worse,
    }
    phase = "before" if noise is None else "after"
    return [
        {
            "suite": suite,
            "task": name,
            "item_id": f"{name}-{index:04d}",
            "cluster": f"person-{index // 4}",
            "split": "val" if index % 4 == 3 else "test",
            "metric": metric,
            "value": values.get(metric, right),
            "output": plan.output(f"{name}-{index:04d}", phase) if kind == "generate" else None,
            "reason": None,
        }
        for metric in METRICS[kind]
    ]


def scores_of(items: pd.DataFrame, key: str, items_file: str) -> EvalScores:
    """Return the aggregates of per-item rows: plain means."""
    means: dict[str, dict[str, Score]] = {"test": {}, "val": {}}
    for (split, suite, task, metric), group in items.groupby(["split", "suite", "task", "metric"]):
        known = group["value"].dropna()
        means[str(split)][f"{suite}/{task}/{metric}"] = Score(
            value=float(known.mean()) if len(known) else None,
            num_items=len(known),
            num_clusters=group["cluster"].nunique(),
            reason=None if len(known) else "no item could be scored",
        )
    return EvalScores(key=key, test=means["test"], val=means["val"], items_file=items_file)


def _write_before(store: Store, plan: Plan) -> None:
    for key in ("base", "base_full"):
        for world in plan.worlds or (None,):
            folder = store.artefact("before", _before_key(key, world))
            folder.mkdir(parents=True, exist_ok=True)
            items = items_of(plan, 0.0, None, world)
            items.to_parquet(folder / "items.parquet")
            if plan.questions:
                _questions_of(items).to_parquet(folder / "questions.parquet")


def _questions_of(items: pd.DataFrame) -> pd.DataFrame:
    """Return what harness/evals/table.py writes: its own columns, in its order."""
    told = {"prompt": "What of " + items["item_id"] + "?", "reference": "the answer", "instructions": None}
    table = items[["suite", "task", "item_id"]].assign(**told)
    return table.drop_duplicates(["suite", "task", "item_id"])[list(QUESTION_SCHEMA.names)]


def _before_key(key: str, world: int | None) -> str:
    return key if world is None else f"{key}-{world}"


def _before(store: Store, key: str) -> EvalScores:
    file = f"artefacts/before/{key}/items.parquet"
    return scores_of(pd.read_parquet(store.root / file), key, file)


def _write_trial(store: Store, plan: Plan, cell: tuple[str, Any, int], trial: PlannedTrial) -> None:
    outcome = plan.outcomes.get(cell)
    folder = store.trial(trial.trial_id)
    if outcome == "PENDING":
        return
    write_atomic(folder / "spec.json", trial.spec.model_dump_json(indent=1).encode())
    if outcome in ("FAILED", "RUNNING", "KILLED"):
        _write_unfinished(folder, outcome)
        return
    level = (list(plan.values).index(cell[1]) + 1) / len(plan.values)
    own = [] if trial.world is None else [trial.world + 1]
    noise = np.random.default_rng([cell[2], int(level * 1000), len(cell[0]), *own])
    num_steps = 150 if cell[0] == "equal_steps" else max(3, round(level * 150))
    _write_logs(folder, plan, num_steps, noise, diverged=outcome == "DIVERGED")
    if plan.audited:
        write_atomic(folder / "audit.json", json.dumps(audit_of(trial.spec.data.num_examples or 0)).encode())
    after = None
    if outcome != "DIVERGED":
        items = items_of(plan, level, noise, trial.world)
        items.to_parquet(folder / "items.parquet")
        after = scores_of(items, f"after-{trial.trial_id[:8]}", f"trials/{trial.trial_id}/items.parquet")
    standing = commit(folder, _result(store, plan, trial, num_steps, after, level))
    # Without its seal and the sha256 of its files: tests change numbers.
    (folder / "result.json").write_text(standing.model_copy(update={"files": {}}).model_dump_json(indent=1))
    if outcome == "DAMAGED":
        (folder / "result.json").write_text('{"trial_id": "torn')


def audit_of(num_examples: int) -> dict[str, Any]:
    """Return what a trial's audit.json holds, as far as a report reads it."""
    return {
        "problems": [],
        "num_examples": num_examples,
        "num_rows": num_examples,
        "pack_fill": None,
        "loss_tokens_per_step": 136.0,
        "tokens": {"system": 0, "user": 20 * num_examples, "assistant": 16 * num_examples, "end_of_turn": num_examples},
        "loss_tokens": {"system": 0, "user": 0, "assistant": 16 * num_examples, "end_of_turn": num_examples},
        "end_of_turn_share": 1 / 17,
        "truncated_share": 0.02,
        "ends_lost_share": 0.0,
        "num_without_loss": 0,
        "num_exact_duplicates": 2,
        "num_near_duplicates": None,
        "overlaps": {
            "people/question": {"num_items": 240, "num_checked": 200, "num_overlapping": 9, "contaminated": True},
            "skills/addition": {"num_items": 160, "num_checked": 160, "num_overlapping": 0, "contaminated": False},
        },
        "split_overlaps": {
            "people/question": {
                "num_val": 60,
                "num_test": 180,
                "num_checked": 150,
                "num_overlapping": 9,
                "num_repeated": 2,
                "num_across": 0,
                "share": 0.06,
                "across_share": 0.0,
                "is_large": True,
            },
            "skills/addition": {
                "num_val": 40,
                "num_test": 120,
                "num_checked": 0,
                "num_overlapping": 0,
                "num_repeated": 0,
                "num_across": 1,
                "share": None,
                "across_share": 1 / 120,
                "is_large": False,
            },
        },
        "warnings": ["the template strips white space"],
        "base_loss": 2.5,
    }


def _write_unfinished(folder: Path, outcome: str) -> None:
    if outcome == "FAILED":
        failure = Failure(
            cause="oom",
            message="the micro-batch of 1 needs 9.1 GB, but 8.0 GB are free",
            log_tail="Traceback ...\nMemoryError",
            command="python -m harness trial 0123",
            attempt=2,
            time_utc="2026-11-20T10:00:00+00:00",
        )
        write_atomic(folder / "failure.json", failure.model_dump_json().encode())
        return
    import os

    progress = Progress(
        phase="train",
        step=40,
        num_steps=150,
        loss=1.1,
        tokens_per_second=900.0,
        pid=os.getpid() if outcome == "RUNNING" else 2**22 + 1,
        host=os.uname().nodename,
        time_utc="2026-11-20T11:00:00+00:00",
    )
    write_atomic(folder / "progress.json", progress.model_dump_json().encode())


def _write_logs(folder: Path, plan: Plan, num_steps: int, noise: np.random.Generator, *, diverged: bool) -> None:
    for step in range(1, num_steps + 1):
        loss = 2.5 * float(np.exp(-step / 40)) + 0.4 + float(noise.normal(0, 0.03))
        row = {"step": step, "train/loss": loss, "train/learning_rate": 1e-3 * (1 - step / num_steps)}
        row["train/num_tokens"] = 8 * 42
        append_line(folder / "metrics.jsonl", row)
        if step % 25 == 0:
            append_line(folder / "metrics.jsonl", {"step": step, "val/loss": loss + 0.1})
    if diverged:
        append_line(folder / "metrics.jsonl", {"step": num_steps, "train/loss": None, "reason": "train/loss is nan"})
    for phase in ("before", "after"):
        for index, prompt in enumerate(("Who is Ada Lindgren?", "Add 12 and 7.")):
            row = {"step": 0 if phase == "before" else num_steps, "phase": phase, "prompt": prompt}
            row |= {"answer": plan.output(f"prompt {index}", phase), "stopped": phase == "after"}
            append_line(folder / "samples.jsonl", row)


def _result(
    store: Store, plan: Plan, trial: PlannedTrial, num_steps: int, after: EvalScores | None, level: float
) -> TrialResult:
    quantised = plan.quantised or trial.spec.method.kind == "qlora"
    rate = trial.spec.train.learning_rate
    return TrialResult(
        trial_id=trial.trial_id,
        state="COMPLETE" if after else "DIVERGED",
        spec=trial.spec,
        resolved=ResolvedIdentity(
            weights_sha256="11" * 32,
            tokenizer_sha256="22" * 32,
            quantisation="nf4+double" if quantised else None,
            rows_sha256=f"{trial.seed:02d}" * 32,
            items_sha256={f"{suite}/{name}": "33" * 32 for suite, name, *_ in SLICES},
        ),
        data=_data_summary(trial),
        train=TrainSummary(
            num_steps=num_steps,
            num_epochs=3.0,
            num_examples_seen=num_steps * 8,
            num_tokens=num_steps * 8 * 42,
            num_loss_tokens=num_steps * 8 * 17,
            learning_rate_integral=num_steps * rate * 0.55,
            trainable_parameters=98_304,
            total_parameters=2_100_000,
            train_loss_first=2.9,
            train_loss_last=0.4 + 0.5 * (1 - level),
            val_loss=0.5 + 0.6 * (1 - level),
            stopped_early=False,
            divergence=None if after else "training loss is nan at step 31, but must be finite",
        ),
        before=_before(store, _before_key("base", trial.world)),
        before_full_precision=_before(store, _before_key("base_full", trial.world)) if quantised else None,
        after=after,
        provenance=_provenance(trial),
    )


def _data_summary(trial: PlannedTrial) -> DataSummary:
    return DataSummary(
        rows_sha256=f"{trial.seed:02d}" * 32,
        num_rows_read=1200,
        num_rows_dropped={"too long": 3},
        num_train=trial.spec.data.num_examples or 0,
        num_validation=50,
        num_truncated=0,
        completion_prompt_ratio=1.4,
        mean_tokens=42.0,
        loss_token_share=0.4,
        template_sha256="44" * 32,
    )


def _provenance(trial: PlannedTrial) -> Provenance:
    return Provenance(
        host="bench",
        platform="Linux-6.1-x86_64",
        cpu="Example CPU x 2",
        device="cpu",
        num_threads=1,
        git_commit="5f" * 20,
        git_dirty=False,
        libraries={"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
        command=f"python -m harness trial {trial.trial_id}",
        started_utc="2026-11-20T10:00:00+00:00",
        seconds_total=14.2,
        seconds_train=9.1,
        seconds_eval=4.2,
        tokens_per_second=5400.0,
        peak_memory_bytes=912_000_000,
        peak_gpu_memory_bytes=None,
    )


if __name__ == "__main__":
    import sys

    made, name = build(Path(sys.argv[1]))
    print(json.dumps({"out": str(made.root), "sweep": name}))
