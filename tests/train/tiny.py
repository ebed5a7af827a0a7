"""A tiny Llama, hand-made rows, and a recipe: what the tests of training are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from harness import train
from harness.data import Example, PreparedData
from harness.data.prepare import rows_sha256
from harness.models import Halvings
from harness.records.schema import DataSummary, TrainSummary
from harness.records.store import read_lines
from harness.seeding import preserved_rng
from harness.spec import Runtime, TrainSpec
from harness.train.batches import Order

VOCAB = 64
TIMES = ("seconds", "tokens_per_second")


@dataclass(frozen=True)
class Context:
    runtime: Runtime
    report: Callable[..., None] = lambda **progress: None
    eval_halvings: Halvings = field(default_factory=Halvings)


def llama(seed: int = 0, attention_dropout: float = 0.0) -> LlamaForCausalLM:
    """Return a Llama of 2 layers x 32 with random weights."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
        attention_dropout=attention_dropout,
    )
    with preserved_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def lora(seed: int = 0, dropout: float = 0.1) -> nn.Module:
    """Return the tiny Llama with LoRA on every linear layer."""
    with preserved_rng():
        torch.manual_seed(seed + 100)
        config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(llama(seed), config)


def examples(num: int, seed: int = 0, longest: int = 14) -> list[Example]:
    """Return rows of random ids and lengths, trained on their second half."""
    stream = np.random.default_rng(seed)
    made = []
    for index in range(num):
        length = int(stream.integers(4, longest + 1))
        weights = np.zeros(length, dtype=np.float32)
        weights[length // 2 :] = 1.0
        made.append(Example(f"row_{index}", stream.integers(1, VOCAB, size=length), weights))
    return made


def prepared(train_rows: list[Example], validation: Sequence[Example] = ()) -> PreparedData:
    """Return rows as the data path hands them over."""
    summary = DataSummary(
        rows_sha256=rows_sha256(train_rows, validation),
        num_rows_read=len(train_rows) + len(validation),
        num_rows_dropped={},
        num_train=sum(row.num_examples for row in train_rows),
        num_validation=len(validation),
        num_truncated=0,
        completion_prompt_ratio=None,
        mean_tokens=None,
        loss_token_share=None,
        template_sha256="0" * 64,
    )
    return PreparedData(train=train_rows, validation=list(validation), sample_prompts=[], summary=summary)


def recipe(**changes: Any) -> TrainSpec:
    """Return a recipe of 6 steps of 8 examples, with changes."""
    plain = {
        "num_steps": 6,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "max_grad_norm": 1.0,
        "dtype": "float32",
        "loss_reduction": "token_mean",
        "loss_limit": 20.0,
    }
    return TrainSpec(**(plain | changes))


def runtime(**changes: Any) -> Runtime:
    """Return a runtime of one thread and micro-batches of 8, with changes."""
    return Runtime(**({"num_threads": 1, "micro_batch_size": 8, "eval_batch_size": 8} | changes))


def no_samples(_model: nn.Module, _phase: str) -> list[dict[str, Any]]:
    return []


def fit(model: nn.Module, rows: PreparedData, spec: TrainSpec, folder: Path, **options: Any) -> TrainSummary:
    """Train with the seed 0, no samples and a plain runtime unless told otherwise."""
    context = Context(options.pop("runtime", runtime()), options.pop("report", lambda **progress: None))
    plain = {"seed": 0, "sample": no_samples, "context": context, "folder": folder}
    return train.fit(model, rows, spec, **(plain | options))


def weights(model: nn.Module) -> dict[str, bytes]:
    """Return every parameter's bytes."""
    return {name: parameter.detach().numpy().tobytes() for name, parameter in model.named_parameters()}


def log_of(folder: Path, *, only: str = "train/loss") -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl that hold a key, without what the clock said."""
    rows = [row for row in read_lines(folder / "metrics.jsonl") if only in row]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def train_order(spec: TrainSpec, num_examples: int) -> Order:
    """Return the order in which `fit` above takes examples."""
    return Order.of(spec, num_examples, seed=0)
