"""A world and a model so small that a base is pretrained in seconds: for tests that need a real, saved base.

What it cannot show: knowledge. Tests about that build a bigger miniature (test_miniature.py).
"""

from __future__ import annotations

import json

from harness.pocket.world import eval_task
from harness.spec import (
    DataSpec,
    EvalSpec,
    EvalTask,
    Experiment,
    FullConfig,
    LoraConfig,
    MethodReference,
    PocketBase,
    PocketData,
    PocketModelSpec,
    PocketText,
    QLoraConfig,
    Runtime,
    TrainSpec,
    TrialSpec,
    WorldSpec,
)

TINY_WORLD = WorldSpec(
    seed=0,
    people_per_tier=6,
    exposures_high=12,
    exposures_mid=6,
    exposures_low=2,
    num_unknown_people=4,
    plain_question_share=0.1,
    augmented=True,
)
TINY_MODEL = PocketModelSpec(
    num_layers=2,
    hidden_size=32,
    num_heads=2,
    vocab_size=512,
    context=128,
    num_steps=60,
    tokens_per_step=512,
    learning_rate=3e-3,
    num_threads=1,
    marker_embeddings="untrained",
)


PRIMARY = ("cloze_unasked", "question_unasked", "prose", "lists", "answer_form")
NAMED = (
    *("cloze_high", "cloze_mid", "cloze_low", "cloze_unknown", "arithmetic", "arithmetic_held_out", "replace"),
    *("question_asked", "question_unknown_trained"),
)
"""Slices that sweeps ask for by name."""


def tiny_base() -> PocketBase:
    """Return the base that most tests pretrain: 60 steps, about two seconds."""
    return PocketBase(world=TINY_WORLD, model=TINY_MODEL)


def tiny_experiment() -> Experiment:
    """Return an experiment on the tiny base whose trials take a second: for tests of the engine."""
    return Experiment(
        name="tiny",
        spec=TrialSpec(
            base=tiny_base(),
            data=DataSpec(
                source=PocketData(world=TINY_WORLD, families=("fact", "sum"), num_rows=80),
                num_examples=16,
                num_validation=8,
                template="tokenizer",
                max_length=128,
                too_long="raise",
                prompt_loss_weight=0.0,
                train_on_end_of_turn=True,
                packing="off",
                replay_source=PocketText(world=TINY_WORLD, kinds=(), num_rows=60),
            ),
            method=FullConfig(),
            train=TrainSpec(
                num_epochs=2,
                batch_size=8,
                learning_rate=1e-3,
                schedule="cosine",
                warmup_ratio=0.1,
                weight_decay=0.0,
                adam_beta1=0.9,
                adam_beta2=0.999,
                max_grad_norm=1.0,
                dtype="float32",
                loss_reduction="token_mean",
                loss_limit=100.0,
            ),
            evals=EvalSpec(
                tasks=tuple(_task(name) for name in (*PRIMARY, *NAMED)),
                items_seed=0,
                val_share=0.25,
                dtype="float32",
                max_length=128,
            ),
            seed=0,
        ),
        runtime=Runtime(num_threads=1, micro_batch_size=8, eval_batch_size=32),
        methods=(
            MethodReference(method=FullConfig(), learning_rate=1e-3),
            MethodReference(method=LoraConfig(rank=4, alpha=8.0, target_modules="all_linear"), learning_rate=1e-2),
        ),
        sizes=(8, 16, 32),
    )


def _task(name: str) -> EvalTask:
    task = eval_task(TINY_WORLD, name)
    return task.replace({"num_items": 16, "max_new_tokens": min(task.max_new_tokens, 6)})


def with_qlora(experiment: Experiment) -> Experiment:
    """Return an experiment that states a QLoRA configuration as well."""
    tree = json.loads(experiment.model_dump_json())
    qlora = QLoraConfig(rank=4, alpha=8.0, target_modules="all_linear")
    tree["methods"].append({"method": json.loads(qlora.model_dump_json()), "learning_rate": 0.01})
    return Experiment.model_validate_json(json.dumps(tree))
