from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from harness.data import Example
from harness.errors import DataError
from harness.records.store import read_lines
from harness.train.dropout import has_dropout
from harness.train.run import Run
from tests.train import tiny

ROWS = tiny.prepared(tiny.examples(20), tiny.examples(6, seed=9))


def noisy_sample(model: nn.Module, phase: str) -> list[dict[str, Any]]:
    """Draw from every generator and report the mode, as a careless sampler would."""
    np.random.rand(3)
    torch.rand(3)
    return [{"phase_seen": phase, "training": model.training, "gradients": torch.is_grad_enabled()}]


# -- determinism ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [tiny.llama, tiny.lora])
def test_fit_repeated_in_one_process_gives_the_same_bytes(build: Any, tmp_path: Path) -> None:
    outcomes = []
    for repeat in range(5):
        model, folder = build(), tmp_path / str(repeat)
        tiny.fit(model, ROWS, tiny.recipe(eval_every=2), folder, runtime=tiny.runtime(micro_batch_size=3))
        outcomes.append((tiny.weights(model), tiny.log_of(folder), tiny.log_of(folder, only="val/loss")))
        torch.rand(7)  # whatever runs in between must not matter
    assert outcomes[0] == outcomes[4]
    assert outcomes[0] == outcomes[1]


def test_fit_with_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    models = [tiny.llama(), tiny.llama()]
    for seed, model in enumerate(models):
        tiny.fit(model, ROWS, tiny.recipe(), tmp_path / str(seed), seed=seed)
    assert tiny.weights(models[0]) != tiny.weights(models[1])


@pytest.mark.parametrize("build", [lambda: tiny.llama(attention_dropout=0.2), tiny.lora])
def test_fit_with_evaluation_trains_bitwise_as_without(build: Any, tmp_path: Path) -> None:
    models = build(), build()
    silent = tiny.prepared(ROWS.train)
    tiny.fit(models[0], silent, tiny.recipe(), tmp_path / "without")
    tiny.fit(models[1], ROWS, tiny.recipe(eval_every=1), tmp_path / "with", sample=noisy_sample)
    assert tiny.log_of(tmp_path / "with", only="val/loss")
    assert tiny.log_of(tmp_path / "without") == tiny.log_of(tmp_path / "with")
    assert tiny.weights(models[0]) == tiny.weights(models[1])


def test_fit_with_dropout_draws_from_the_seed_and_not_from_the_caller(tmp_path: Path) -> None:
    losses = []
    for caller_seed in (1, 2):
        torch.manual_seed(caller_seed)
        tiny.fit(tiny.lora(dropout=0.3), ROWS, tiny.recipe(), tmp_path / str(caller_seed))
        losses.append(tiny.log_of(tmp_path / str(caller_seed)))
    assert losses[0] == losses[1]


def test_fit_has_dropout_on_in_every_step_also_after_an_evaluation(tmp_path: Path) -> None:
    logs = {}
    for dropout in (0.0, 0.3):
        tiny.fit(tiny.lora(dropout=dropout), ROWS, tiny.recipe(eval_every=1), tmp_path / str(dropout))
        logs[dropout] = [row["train/grad_norm"] for row in tiny.log_of(tmp_path / str(dropout))]
    assert all(without != with_dropout for without, with_dropout in zip(logs[0.0], logs[0.3], strict=True))


@pytest.mark.parametrize("build", [lambda: tiny.llama(attention_dropout=0.2), lambda: tiny.lora(dropout=0.3)])
def test_fit_with_dropout_gives_the_same_bytes_at_every_micro_batch(build: Any, tmp_path: Path) -> None:
    models = {size: build() for size in (1, 3, 8)}
    for size, model in models.items():
        tiny.fit(model, ROWS, tiny.recipe(), tmp_path / str(size), runtime=tiny.runtime(micro_batch_size=size))
    assert tiny.weights(models[1]) == tiny.weights(models[3]) == tiny.weights(models[8])


@pytest.mark.parametrize(
    ("config", "drops"),
    [
        ({}, False),
        ({"attention_dropout": 0.1}, True),
        ({"classifier_dropout": 0.1}, False),
        ({"resid_pdrop": 1}, True),
        ({"drop_path_rate": [0.0, 0.1]}, True),
        ({"drop_tokens": True}, False),
    ],
)
def test_dropout_is_seen_wherever_a_configuration_names_it(config: dict[str, Any], drops: bool) -> None:
    model = tiny.llama()
    model.config.update(config)
    assert has_dropout(model) is drops
    model.config = LlamaConfig(text_config=model.config.to_dict())
    assert has_dropout(model) is drops


# -- accumulation, precision, reductions ------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["token_mean", "micro_batch_mean", "example_mean", "sum"])
def test_fit_in_eight_micro_batches_of_one_equals_one_of_eight(reduction: str, tmp_path: Path) -> None:
    models = {size: tiny.llama() for size in (1, 8)}
    # Adam divides by the root of the second moment, so an entry whose gradient is rounding noise takes a full step in
    # a random direction; a larger epsilon is not a field, hence the comparison of losses and of a tolerance on weights
    # that is a small share of the 6 x 3e-3 that a weight can travel.
    spec = tiny.recipe(loss_reduction=reduction, loss_group_size=4)
    for size, model in models.items():
        tiny.fit(model, ROWS, spec, tmp_path / str(size), runtime=tiny.runtime(micro_batch_size=size))
    logs = [tiny.log_of(tmp_path / str(size)) for size in (1, 8)]
    for row_1, row_8 in zip(*logs, strict=True):
        assert row_1 == pytest.approx(row_8, rel=1e-5)
    for of_1, of_8 in zip(models[1].parameters(), models[8].parameters(), strict=True):
        torch.testing.assert_close(of_1, of_8, rtol=0, atol=2e-5)


def test_fit_logs_the_token_mean_under_every_reduction(tmp_path: Path) -> None:
    first = {}
    for reduction in ("token_mean", "example_mean", "sum"):
        tiny.fit(tiny.llama(), ROWS, tiny.recipe(loss_reduction=reduction, num_steps=1), tmp_path / reduction)
        first[reduction] = tiny.log_of(tmp_path / reduction)[0]
    assert len({round(row["train/loss"], 6) for row in first.values()}) == 1
    assert first["token_mean"]["train/objective"] == pytest.approx(first["token_mean"]["train/loss"], rel=1e-6)
    total = first["sum"]["train/loss"] * first["sum"]["train/num_loss_tokens"]
    assert first["sum"]["train/objective"] == pytest.approx(total, rel=1e-6)
    assert first["example_mean"]["train/objective"] != pytest.approx(first["token_mean"]["train/loss"], rel=1e-4)


class Casts(TorchDispatchMode):
    """Counts casts of whole weights to bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.places = {weight.data_ptr() for weight in model.parameters() if weight.dim() == 2}
        self.num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_cast = func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") is torch.bfloat16
        self.num += is_cast and args[0].data_ptr() in self.places
        return func(*args, **(kwargs or {}))


def test_weights_are_cast_once_a_step_and_train_as_if_cast_for_every_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe(num_epochs=None, num_steps=3, batch_size=4, dtype="bfloat16_autocast")
    counts, weights = [], []
    for name in ("shared", "apart"):
        if name == "apart":
            monkeypatch.setattr(Run, "shared_casts", lambda run: nullcontext())
        model = tiny.llama()
        with Casts(model) as casts:
            tiny.fit(
                model, tiny.prepared(ROWS.train), recipe, tmp_path / name, runtime=tiny.runtime(micro_batch_size=1)
            )
        counts.append(casts.num)
        weights.append(tiny.weights(model))
    num_matrices = 7 * 2 + 1
    assert counts == [3 * num_matrices, 3 * 4 * num_matrices]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("dtype", "held"), [("bfloat16_autocast", torch.float32), ("bfloat16", torch.bfloat16)])
def test_fit_in_bfloat16_stays_near_float32(dtype: str, held: torch.dtype, tmp_path: Path) -> None:
    exact, model = tiny.llama(), tiny.llama().to(held)
    tiny.fit(exact, ROWS, tiny.recipe(), tmp_path / "float32")
    tiny.fit(model, ROWS, tiny.recipe(dtype=dtype), tmp_path / dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {held}
    for row, reference in zip(tiny.log_of(tmp_path / dtype), tiny.log_of(tmp_path / "float32"), strict=True):
        # bfloat16 keeps 8 bits: a loss of about 4 nats is good to 1 %.
        assert row["train/loss"] == pytest.approx(reference["train/loss"], rel=0.01)
        assert row["train/loss"] != reference["train/loss"]


# -- learning ---------------------------------------------------------------------------------------------------------


def test_fit_two_examples_are_learned_by_heart(tmp_path: Path) -> None:
    model, rows = tiny.llama(), tiny.prepared(tiny.examples(2))
    spec = tiny.recipe(num_steps=60, batch_size=2, learning_rate=1e-2, schedule="constant", weight_decay=0.0)
    summary = tiny.fit(model, rows, spec, tmp_path)
    assert summary.train_loss_first is not None
    assert summary.train_loss_first > 3.0
    assert summary.train_loss_last is not None
    assert summary.train_loss_last < 0.01
    for row in rows.train:
        predicted = model(torch.tensor(row.input_ids)[None]).logits[0].argmax(-1)[:-1].numpy()
        trained = row.loss_weights[1:] > 0
        assert (predicted[trained] == row.input_ids[1:][trained]).all()


def test_fit_lora_trains_adapters_only(tmp_path: Path) -> None:
    model = tiny.lora()
    before = tiny.weights(model)
    summary = tiny.fit(model, ROWS, tiny.recipe(), tmp_path)
    moved = {name for name, content in tiny.weights(model).items() if content != before[name]}
    assert moved == {name for name in before if "lora_" in name}
    assert summary.trainable_parameters == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert summary.total_parameters == sum(p.numel() for p in tiny.llama().parameters())


def test_fit_weight_decay_and_clipping_reach_the_optimizer(tmp_path: Path) -> None:
    outcomes = set()
    for name, changes in {"plain": {}, "decay": {"weight_decay": 0.5}, "clip": {"max_grad_norm": 0.1}}.items():
        model = tiny.llama()
        tiny.fit(model, ROWS, tiny.recipe(**changes), tmp_path / name)
        outcomes.add(b"".join(tiny.weights(model).values()))
    assert len(outcomes) == 3


def test_fit_leaves_the_model_ready_to_be_scored(tmp_path: Path) -> None:
    model = tiny.lora()
    tiny.fit(model, ROWS, tiny.recipe(), tmp_path)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not (tmp_path / "checkpoints").exists()


# -- what is written --------------------------------------------------------------------------------------------------


def test_fit_summary_counts_what_the_log_counts(tmp_path: Path) -> None:
    spec = tiny.recipe(num_steps=None, num_epochs=1.5, eval_every=2)
    summary = tiny.fit(tiny.llama(), ROWS, spec, tmp_path)
    rows = tiny.log_of(tmp_path)
    assert (summary.num_steps, summary.num_examples_seen, summary.num_epochs) == (4, 30, 1.5)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["epoch"] for row in rows] == [0.4, 0.8, 1.2, 1.5]
    assert summary.num_tokens == sum(row["train/num_tokens"] for row in rows)
    assert summary.num_loss_tokens == sum(row["train/num_loss_tokens"] for row in rows)
    assert summary.learning_rate_integral == pytest.approx(sum(row["train/learning_rate"] for row in rows))
    assert (summary.train_loss_first, summary.train_loss_last) == (rows[0]["train/loss"], rows[-1]["train/loss"])
    assert (summary.stopped_early, summary.divergence) == (False, None)


def test_fit_validates_before_during_and_after(tmp_path: Path) -> None:
    model = tiny.llama()
    summary = tiny.fit(model, ROWS, tiny.recipe(num_steps=5, eval_every=2), tmp_path)
    rows = tiny.log_of(tmp_path, only="val/loss")
    assert [row["step"] for row in rows] == [0, 2, 4, 5]
    assert summary.val_loss == rows[-1]["val/loss"]
    nll, weight = 0.0, 0.0
    for row in ROWS.validation:
        ids = torch.tensor(row.input_ids)
        each = nn.functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
        nll += (each * torch.tensor(row.loss_weights[1:])).sum().item()
        weight += float(row.loss_weights.sum())
    assert summary.val_loss == pytest.approx(nll / weight, rel=1e-5)


def test_fit_samples_in_eval_mode_without_gradients_in_each_phase(tmp_path: Path) -> None:
    tiny.fit(tiny.lora(), ROWS, tiny.recipe(num_steps=5, eval_every=2), tmp_path, sample=noisy_sample)
    rows = read_lines(tmp_path / "samples.jsonl")
    assert [(row["step"], row["phase"]) for row in rows] == [(0, "before"), (2, "during"), (4, "during"), (5, "after")]
    assert all(row["training"] is False and row["gradients"] is False for row in rows)


def test_fit_starts_its_logs_anew(tmp_path: Path) -> None:
    for _ in range(2):
        tiny.fit(tiny.llama(), ROWS, tiny.recipe(num_steps=2), tmp_path, sample=noisy_sample)
    assert [row["step"] for row in tiny.log_of(tmp_path)] == [1, 2]
    assert len(read_lines(tmp_path / "samples.jsonl")) == 2


def test_fit_reports_progress_up_to_the_last_step(tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []
    tiny.fit(tiny.llama(), ROWS, tiny.recipe(), tmp_path, report=lambda **progress: calls.append(progress))
    assert calls[-1].keys() == {"phase", "step", "num_steps", "loss", "tokens_per_second"}
    assert (calls[-1]["phase"], calls[-1]["step"], calls[-1]["num_steps"]) == ("train", 6, 6)


# -- early stopping ---------------------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_weights_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    # Learning two rows by heart at a high rate makes the loss on others fall, then rise.
    rows = tiny.prepared(tiny.examples(2), tiny.examples(6, seed=9))
    spec = tiny.recipe(num_steps=80, batch_size=2, learning_rate=1e-2, eval_every=1, early_stopping_patience=3)
    model = tiny.llama()
    summary = tiny.fit(model, rows, spec, tmp_path)
    losses = [row["val/loss"] for row in tiny.log_of(tmp_path, only="val/loss")]
    best = min(losses[1:])
    assert summary.stopped_early
    assert summary.num_steps == len(losses) - 1 == losses.index(best) + 3
    assert summary.val_loss == best
    again = tiny.fit(model, rows, tiny.recipe(num_steps=1, learning_rate=1e-12), tmp_path / "again")
    assert again.num_steps == 1
    assert tiny.log_of(tmp_path / "again", only="val/loss")[0]["val/loss"] == best


def test_early_stopping_that_never_triggers_still_keeps_the_best(tmp_path: Path) -> None:
    rows = tiny.prepared(tiny.examples(2), tiny.examples(6, seed=9))
    spec = tiny.recipe(num_steps=12, batch_size=2, learning_rate=1e-2, eval_every=1, early_stopping_patience=50)
    summary = tiny.fit(tiny.llama(), rows, spec, tmp_path)
    losses = [row["val/loss"] for row in tiny.log_of(tmp_path, only="val/loss")]
    assert not summary.stopped_early
    assert summary.num_steps == 12
    assert summary.val_loss == min(losses[1:]) < losses[-1]


def test_early_stopping_without_validation_rows_is_refused(tmp_path: Path) -> None:
    spec = tiny.recipe(eval_every=1, early_stopping_patience=1)
    with pytest.raises(DataError, match=r"data\.num_validation is 0"):
        tiny.fit(tiny.llama(), tiny.prepared(tiny.examples(2)), spec, tmp_path)


def test_fit_without_training_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 1"):
        tiny.fit(tiny.llama(), tiny.prepared([]), tiny.recipe(), tmp_path)


# -- divergence -------------------------------------------------------------------------------------------------------


def broken_llama(value: float) -> LlamaForCausalLM:
    """Return a tiny Llama whose answer breaks from the third forward pass in training mode on."""
    model = tiny.llama()
    passes = 0

    def spoil(module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += module.training
        return output * value if passes >= 3 else output

    model.model.norm.register_forward_hook(spoil)
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_by_a_non_finite_loss_ends_the_run_and_keeps_the_record(value: float, tmp_path: Path) -> None:
    model = broken_llama(value)
    summary = tiny.fit(model, ROWS, tiny.recipe(), tmp_path, sample=noisy_sample)
    assert summary.divergence is not None
    assert "loss is nan at step 3" in summary.divergence
    assert (summary.num_steps, summary.val_loss, summary.train_loss_last) == (2, None, None)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3
    assert rows[-1]["train/loss"] is None
    assert "train/loss is nan" in rows[-1]["reason"]
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_divergence_by_a_loss_over_the_limit_names_step_and_loss(tmp_path: Path) -> None:
    summary = tiny.fit(broken_llama(1e4), ROWS, tiny.recipe(loss_limit=50.0), tmp_path)
    last = tiny.log_of(tmp_path)[-1]
    assert last["train/loss"] > 50
    assert summary.divergence == (
        f"training loss is {last['train/loss']:.6g} at step 3, but must be at most train.loss_limit = 50"
    )
    assert summary.train_loss_last == last["train/loss"]


def test_divergence_by_a_hopeless_learning_rate_is_found(tmp_path: Path) -> None:
    spec = tiny.recipe(num_steps=40, learning_rate=1e3, loss_limit=12.0, warmup_ratio=0.0, max_grad_norm=None)
    assert tiny.fit(tiny.llama(), ROWS, spec, tmp_path).divergence is not None


def test_divergence_seen_only_by_validation_ends_the_run(tmp_path: Path) -> None:
    model = tiny.llama()
    model.model.norm.register_forward_hook(
        lambda module, _args, output: output if module.training else output * math.nan
    )
    summary = tiny.fit(model, ROWS, tiny.recipe(), tmp_path)
    assert summary.divergence == "validation loss is nan after step 0, but must be finite"
    assert (summary.num_steps, summary.val_loss, summary.train_loss_first) == (0, None, None)


def test_fit_on_rows_without_any_weight_logs_unknown_and_not_zero(tmp_path: Path) -> None:
    rows = [Example(row.row_id, row.input_ids, np.zeros_like(row.loss_weights)) for row in ROWS.train]
    summary = tiny.fit(tiny.llama(), tiny.prepared(rows), tiny.recipe(num_steps=2), tmp_path)
    row = tiny.log_of(tmp_path)[0]
    assert (row["train/loss"], row["train/objective"], row["train/grad_norm"]) == (None, 0.0, 0.0)
    assert row["reason"]
    assert (summary.num_loss_tokens, summary.train_loss_last, summary.divergence) == (0, None, None)
