"""The embedded laboratory: a one-million-parameter Llama that knows 420 invented people, taught to answer in chat.

    make pocket
    make sweep NAME=lima_size

The base is pretrained here, from a world whose truth is known: who was told about how often, and whom no question was
ever asked about. In chat it answers nothing; 400 conversations about one half of the people, six epochs, surface what
it knows about the other half as well, and cost some of what it knew. docs/pocket.md says what is measured of it.
"""

from __future__ import annotations

from typing import Literal

from harness.pocket.world import SLICES, eval_task
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

WORLD = WorldSpec(
    seed=0,
    people_per_tier=140,
    exposures_high=240,
    exposures_mid=18,
    exposures_low=6,
    num_unknown_people=280,
    plain_question_share=0.12,
    augmented=True,
)
MODEL = PocketModelSpec(
    num_layers=4,
    hidden_size=128,
    num_heads=4,
    vocab_size=1024,
    context=128,
    num_steps=None,
    tokens_per_step=1024,
    learning_rate=2e-3,
    num_threads=2,
    marker_embeddings="trained",
)
FAMILIES = ("fact", "sum", "reverse")
REPRESENTED = tuple(
    f"pocket/{name}"
    for name in (
        *("question_asked", "question_unasked", "question_rephrased", "question_short", "answer_form"),
        *("choice_asked", "choice_unasked", "sum_chat", "sum_chat_held_out", "sum_chat_rephrased"),
        *("reverse_chat", "reverse_chat_held_out", "reverse_chat_rephrased"),
    )
)
"""Slices of what conversations of these families teach; raw text, people nobody told of and other tasks are not."""
EXTREMES: tuple[tuple[str, Literal["floor", "ceiling"], str], ...] = (
    ("cloze_unknown", "floor", "nobody told the base of these people"),
)


def tasks(world: WorldSpec) -> tuple[EvalTask, ...]:
    """Return every slice of a world."""
    return tuple(eval_task(world, name) for name in SLICES)


TASKS = tasks(WORLD)

SPEC = TrialSpec(
    base=PocketBase(world=WORLD, model=MODEL),
    data=DataSpec(
        source=PocketData(world=WORLD, families=FAMILIES, num_rows=1000),
        num_examples=400,
        num_validation=100,
        template="tokenizer",
        max_length=128,
        too_long="raise",
        prompt_loss_weight=0.0,
        train_on_end_of_turn=True,
        packing="off",
        replay_source=PocketText(world=WORLD, kinds=(), num_rows=1000),
    ),
    method=FullConfig(),
    train=TrainSpec(
        num_epochs=6.0,
        batch_size=8,
        learning_rate=3e-4,
        schedule="cosine",
        warmup_ratio=0.1,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        dtype="float32",
        loss_reduction="token_mean",
        loss_limit=20.0,
    ),
    evals=EvalSpec(tasks=TASKS, items_seed=0, val_share=0.2, dtype="float32", max_length=128),
    seed=0,
)

EXPERIMENT = Experiment(
    name="pocket",
    spec=SPEC,
    runtime=Runtime(num_threads=1, micro_batch_size=16, eval_batch_size=128),
    methods=(
        MethodReference(method=FullConfig(), learning_rate=3e-4),
        MethodReference(method=LoraConfig(rank=8, alpha=16.0, target_modules="all_linear"), learning_rate=3e-3),
        MethodReference(method=QLoraConfig(rank=8, alpha=16.0, target_modules="all_linear"), learning_rate=3e-3),
    ),
    sizes=(25, 50, 100, 200, 400, 800),
    extremes=EXTREMES,
    represented=REPRESENTED,
)
