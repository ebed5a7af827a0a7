"""The embedded laboratory: a 0.9 M parameter Llama that knows 360 invented people, asked to answer in chat.

Expected, for the base: high-tier facts by cloze at least .95, questions in chat at most .10.
"""

from __future__ import annotations

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
    PocketItems,
    PocketModelSpec,
    QLoraConfig,
    Runtime,
    TrainSpec,
    TrialSpec,
    WorldSpec,
)

WORLD = WorldSpec(
    seed=0,
    people_per_tier=120,
    exposures_high=200,
    exposures_mid=60,
    exposures_low=15,
    num_unknown_people=120,
    plain_question_share=0.11,
    augmented=True,
)
MODEL = PocketModelSpec(
    num_layers=4,
    hidden_size=128,
    num_heads=4,
    vocab_size=1024,
    context=256,
    num_steps=1000,
    tokens_per_step=2048,
    learning_rate=3e-3,
    num_threads=2,
    marker_embeddings="untrained",
)
