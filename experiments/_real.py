"""What the experiments on real weights share: everything but the base, its template, dtype and learning rates.

Data and items are those of the pocket world, so that every sweep runs on every base without a network; `DATA=` and
`EVALS=` replace them. A real model has never heard of these people, so its "retained" slices start at chance: what it
knew itself is measured with `EVALS=`. Rows longer than `max_length` are dropped and counted: a cut row would teach no
end of turn.
"""

from __future__ import annotations

from typing import Literal

from experiments.pocket import FAMILIES, REPRESENTED, TASKS, WORLD
from harness.spec import (
    ArtefactBase,
    BaseRef,
    DataSpec,
    DType,
    EvalSpec,
    EvalTask,
    Experiment,
    FullConfig,
    LoraConfig,
    MethodReference,
    PackageArtefact,
    PocketData,
    QLoraConfig,
    Runtime,
    TrainSpec,
    TrialSpec,
)

ASKED = (
    *("cloze_known", "cloze_high", "cloze_mid", "cloze_low", "cloze_unknown", "cloze_paraphrase"),
    *("question_asked", "question_unasked", "question_rephrased", "question_short", "choice_asked", "choice_unasked"),
    *("arithmetic", "arithmetic_held_out", "lists", "replace", "sum_chat", "sum_chat_held_out", "first_chat"),
    *("reverse_chat", "answer_form", "prose"),
)
"""Slices of the pocket world that real weights are asked: one or two for each thing measured."""
NUM_ITEMS = 100
"""Items asked of each slice: a real model scores about a hundred times slower than the pocket one."""
SIZES = (25, 50, 100, 200)
Extremes = tuple[tuple[str, Literal["floor", "ceiling"], str], ...]
STRANGERS: Extremes = tuple(
    (name, "floor", "a real model has never heard of the pocket world's people")
    for name in ASKED
    if name.startswith(("cloze_", "choice_"))
)
"""Slices of the pocket world that show nothing of a real model's knowledge."""


def fetched_base(artefact: PackageArtefact) -> ArtefactBase:
    """Return the reference of weights that come in packages."""
    return ArtefactBase(name=artefact.name, gguf_sha256=artefact.gguf_sha256)


def experiment(
    *,
    name: str,
    base: BaseRef,
    template: str,
    dtype: DType,
    full_learning_rate: float,
    adapter_learning_rate: float,
    num_threads: int,
    max_length: int = 512,
    micro_batch_size: int = 4,
    eval_batch_size: int = 16,
    extremes: Extremes = (),
) -> Experiment:
    """Return an experiment on real weights.

    Args:
        name: the experiment's name.
        base: its base.
        template: `tokenizer`, or a named one for a base without.
        dtype: of training and scoring alike.
        full_learning_rate: reference of full fine-tuning.
        adapter_learning_rate: reference of LoRA and QLoRA.
        num_threads: compute threads a trial.
        max_length: longest row and longest scored sequence, in tokens.
        micro_batch_size: rows in one backward pass; bounds memory, moves no number.
        eval_batch_size: rows in one scoring pass; likewise.
        extremes: slices of other items that are at floor or ceiling on this base: name, end, why.
    """
    full = MethodReference(method=FullConfig(), learning_rate=full_learning_rate)
    return Experiment(
        name=name,
        spec=TrialSpec(
            base=base,
            data=_data(template, max_length),
            method=full.method,
            train=_train(full_learning_rate, dtype),
            evals=EvalSpec(
                tasks=tuple(_resized(task) for task in TASKS if task.name in ASKED),
                items_seed=0,
                val_share=0.2,
                dtype=dtype,
                max_length=max_length,
            ),
            seed=0,
        ),
        runtime=Runtime(num_threads=num_threads, micro_batch_size=micro_batch_size, eval_batch_size=eval_batch_size),
        methods=(
            full,
            MethodReference(
                method=LoraConfig(rank=16, alpha=32.0, target_modules="all_linear"),
                learning_rate=adapter_learning_rate,
            ),
            MethodReference(
                method=QLoraConfig(rank=16, alpha=32.0, target_modules="all_linear"),
                learning_rate=adapter_learning_rate,
            ),
        ),
        sizes=SIZES,
        extremes=(*STRANGERS, *extremes),
        represented=REPRESENTED,
    )


def _resized(task: EvalTask) -> EvalTask:
    # An answer that is one token to the pocket tokenizer is several here, and so is the text that ends a turn.
    return task.replace({"num_items": NUM_ITEMS, "max_new_tokens": 2 * task.max_new_tokens})


def _data(template: str, max_length: int) -> DataSpec:
    return DataSpec(
        source=PocketData(world=WORLD, families=FAMILIES, num_rows=1000),
        num_examples=SIZES[-1],
        num_validation=32,
        template=template,
        max_length=max_length,
        too_long="drop",
        prompt_loss_weight=0.0,
        train_on_end_of_turn=True,
        packing="off",
    )


def _train(learning_rate: float, dtype: DType) -> TrainSpec:
    return TrainSpec(
        num_epochs=3.0,
        batch_size=8,
        learning_rate=learning_rate,
        schedule="cosine",
        warmup_ratio=0.1,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        dtype=dtype,
        loss_reduction="token_mean",
        loss_limit=20.0,
    )
