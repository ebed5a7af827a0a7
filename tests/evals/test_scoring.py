from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from harness import models
from harness.data import ChatFormat, chat_format
from harness.data.templates import MARKERS
from harness.evals import before_key, item_rows, sampler, score_after, score_before, scoring
from harness.evals.table import NOT_FINITE, ItemRow
from harness.models import BaseFiles
from harness.records.schema import EvalScores, TrainSummary, primary_metric
from harness.records.store import Store, verify_manifest
from harness.spec import EvalSpec, Quantisation, TrialSpec
from tests.evals import small
from tests.models import tiny
from tests.specs import pinned_spec

METRICS = {
    "multiple_choice": ["acc", "acc_norm", "gold_logprob"],
    "schema": ["acc", "gold_logprob"],
    "greedy": ["acc", "logprob"],
    "generate": ["exact_match", "end_of_turn", "empty"],
    "perplexity": ["bits_per_byte"],
}
NF4 = Quantisation(kind="nf4", double=True)
PROMPTS = [[{"role": "user", "content": "Where does Ann live?"}], [{"role": "user", "content": "A dog?"}]]


def _summary(divergence: str | None = None) -> TrainSummary:
    return TrainSummary(
        num_steps=1, num_epochs=1.0, num_examples_seen=1, num_tokens=1, num_loss_tokens=1, learning_rate_integral=0.1,
        trainable_parameters=1, total_parameters=1, train_loss_first=1.0, train_loss_last=1.0, val_loss=None,
        stopped_early=False, divergence=divergence,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("items")


@pytest.fixture(scope="module")
def spec(tasks_folder: Path) -> EvalSpec:
    return small.evals(*small.every_kind(tasks_folder))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> BaseFiles:
    folder = tmp_path_factory.mktemp("base") / "model"
    return models.inspect_folder(tiny.write_folder(folder, max_position_embeddings=512))


@pytest.fixture
def context(tmp_path: Path) -> small.Context:
    return small.Context(Store(tmp_path / "out"))


def _after(model: Any, spec: EvalSpec, context: small.Context, trial: str = "one") -> EvalScores | None:
    folder = context.store.trial(trial)
    return score_after(model, small.chat(), spec, context, folder, _summary())


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_scores_hold_every_metric_of_every_kind_in_both_splits(spec: EvalSpec, context: small.Context) -> None:
    scores = _after(small.llama(), spec, context)
    assert scores is not None
    expected = [f"small/{kind}/{metric}" for kind, metrics in METRICS.items() for metric in metrics]
    assert list(scores.test) == expected
    assert list(scores.val) == expected
    assert all(score.value is not None and score.reason is None for score in scores.test.values())
    for task in spec.tasks:
        key = f"{task.key}/{primary_metric(task)}"
        assert scores.test[key].num_items + scores.val[key].num_items == 12


def test_item_rows_on_disk_average_to_the_scores(spec: EvalSpec, context: small.Context) -> None:
    scores = _after(small.llama(), spec, context)
    assert scores is not None
    table = pq.read_table(context.store.root / scores.items_file)
    assert tuple(table.column_names) == ItemRow._fields
    frame = table.to_pandas()
    assert len(frame) == 12 * sum(map(len, METRICS.values()))
    means = frame.groupby(["split", "suite", "task", "metric"])["value"].mean()
    for split, held in (("test", scores.test), ("val", scores.val)):
        for key, score in held.items():
            assert means[(split, *key.split("/"))] == pytest.approx(score.value)
    answered = frame[frame.task.isin(["multiple_choice", "schema", "generate"])]
    assert answered.output.notna().all()


def test_scores_of_one_model_twice_are_the_same_bytes(spec: EvalSpec, context: small.Context) -> None:
    model = small.llama()
    assert _after(model, spec, context, "one") is not None
    assert _after(model, spec, context, "two") is not None
    first, second = (context.store.trial(trial) / "items.parquet" for trial in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_scores_of_two_models_differ(spec: EvalSpec) -> None:
    rows = [item_rows(small.llama(seed), small.chat(), spec, batch_size=16) for seed in (0, 1)]
    assert rows[0] != rows[1]


def test_scores_move_with_the_batch_size_only_in_the_last_digits(spec: EvalSpec) -> None:
    one, many = (item_rows(small.llama(), small.chat(), spec, batch_size=size) for size in (1, 64))
    for row, other in zip(one, many, strict=True):
        assert row._replace(value=0.0) == other._replace(value=0.0)
        assert row.value == pytest.approx(other.value, abs=1e-4)  # float32 sums in another order


def test_trial_that_diverged_is_not_scored(spec: EvalSpec, context: small.Context) -> None:
    folder = context.store.trial("one")
    diverged = _summary("loss is nan at step 3")
    assert score_after(small.llama(), small.chat(), spec, context, folder, diverged) is None
    assert not folder.exists()


def test_model_that_gives_no_numbers_has_no_scores_but_all_rows(spec: EvalSpec, context: small.Context) -> None:
    model = small.llama()
    model.model.norm.weight.data.fill_(float("nan"))
    scores = _after(model, spec, context)
    assert scores is not None
    assert all(score.value is None and score.reason and NOT_FINITE in score.reason for score in scores.test.values())
    frame = pq.read_table(context.store.root / scores.items_file).to_pandas()
    assert len(frame) == 12 * sum(map(len, METRICS.values()))
    assert frame.value.isna().all()
    assert (frame.reason == NOT_FINITE).all()


def test_scores_of_no_tasks_are_empty(context: small.Context) -> None:
    scores = _after(small.llama(), small.evals(), context)
    assert scores is not None
    assert (scores.test, scores.val) == ({}, {})
    assert pq.read_table(context.store.root / scores.items_file).num_rows == 0


def test_context_too_small_for_an_item_is_said_beside_the_score(tmp_path: Path, context: small.Context) -> None:
    items = [
        {"id": "long", "query": "a dog " * 100, "choices": ["x", "y"], "gold": 0},
        {"id": "longer", "query": "a dog", "choices": ["b c d " * 100, "y"], "gold": 0},
        {"id": "short", "query": "a dog", "choices": ["x", "y"], "gold": 0},
    ]
    task = small.task("multiple_choice", small.write_items(tmp_path / "a.jsonl", items))
    scores = _after(small.llama(), small.evals(task, max_length=64, val_share=0.0), context)
    assert scores is not None
    score = scores.test["small/multiple_choice/acc"]
    assert score.num_items == 2
    assert score.reason == (
        "1 of 3 items: cut on the left to fit the context; 1 of 3 items: the continuation is longer than the context"
    )


# -- what stays as it was ---------------------------------------------------------------------------------------------


def test_scoring_leaves_random_state_modes_and_config_as_they_were(spec: EvalSpec) -> None:
    model = small.llama(attention_dropout=0.1)
    model.train()
    model.model.norm.eval()  # a part that its owner froze must not be switched on
    model.config.use_cache = False
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    item_rows(model, small.chat(), spec, batch_size=16)
    sampler(small.chat(), PROMPTS, spec)(model, "during")

    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert model.training
    assert not model.model.norm.training
    assert model.config.use_cache is False
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(not module._forward_pre_hooks for module in model.modules())


def _train(spec: EvalSpec | None) -> list[float]:
    """Five steps with dropout, scored after each one if a spec is given."""
    torch.manual_seed(7)
    model = small.llama(attention_dropout=0.3).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        ids = torch.randint(0, tiny.VOCAB, (4, 16))
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if spec is not None:
            item_rows(model, small.chat(), spec, batch_size=16)
    return losses


def test_training_is_bitwise_the_same_with_and_without_scoring(spec: EvalSpec) -> None:
    assert _train(spec) == _train(None)


# -- every kind of model ----------------------------------------------------------------------------------------------


def test_adapter_at_step_zero_scores_as_its_base_and_trained_does_not(spec: EvalSpec) -> None:
    plain = item_rows(small.llama(), small.chat(), spec, batch_size=16)
    tuned = get_peft_model(small.llama(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)).train()
    assert item_rows(tuned, small.chat(), spec, batch_size=16) == plain
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    assert item_rows(tuned, small.chat(), spec, batch_size=16) != plain


def test_autocast_scores_are_near_float32_and_not_equal(spec: EvalSpec) -> None:
    full = item_rows(small.llama(), small.chat(), spec, batch_size=16)
    half = item_rows(small.llama(), small.chat(), spec.replace({"dtype": "bfloat16_autocast"}), batch_size=16)
    pairs = [(a.value, b.value) for a, b in zip(full, half, strict=True) if a.metric == "bits_per_byte"]
    assert pairs == [(pytest.approx(b, rel=0.02), b) for _, b in pairs]  # bfloat16 holds 8 bits: 0.4 % a product
    assert all(a != b for a, b in pairs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scores_on_a_gpu_are_near_those_on_a_cpu(spec: EvalSpec) -> None:
    on_cpu = item_rows(small.llama(), small.chat(), spec, batch_size=16)
    on_gpu = item_rows(small.llama().to("cuda"), small.chat(), spec, batch_size=16)
    for row, other in zip(on_cpu, on_gpu, strict=True):
        if "logprob" in row.metric or row.metric == "bits_per_byte":
            assert other.value == pytest.approx(row.value, rel=1e-3, abs=1e-2)  # TF32 and other orders of summing


# -- before -----------------------------------------------------------------------------------------------------------


def _trial(spec: EvalSpec, **changes: Any) -> TrialSpec:
    return pinned_spec().model_copy(update={"evals": spec}).replace(changes) if changes else pinned_spec().model_copy(
        update={"evals": spec}
    )  # fmt: skip


def test_base_is_scored_once_and_shared(
    spec: EvalSpec, files: BaseFiles, context: small.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    load = models.load_model
    monkeypatch.setattr(scoring.models, "load_model", lambda *arguments: loaded.append(arguments) or load(*arguments))

    first, none = score_before(files, small.chat(), _trial(spec), context, None)
    second, _ = score_before(files, small.chat(), _trial(spec, seed=5), context, None)

    assert none is None
    assert len(loaded) == 1
    assert first == second
    folder = context.store.artefact("before", first.key)
    assert set(verify_manifest(folder)) == {"choices.parquet", "items.parquet", "questions.parquet", "scores.json"}
    assert context.store.root / first.items_file == folder / "items.parquet"


def test_base_scores_equal_those_of_an_untrained_model(
    spec: EvalSpec, files: BaseFiles, context: small.Context
) -> None:
    before, _ = score_before(files, small.chat(), _trial(spec), context, None)
    after = _after(models.load_model(files, "float32", "cpu", None), spec, context)
    assert after is not None
    assert (before.test, before.val) == (after.test, after.val)
    assert before.key != after.key


def test_base_in_four_bits_is_scored_in_full_precision_too(
    spec: EvalSpec, files: BaseFiles, context: small.Context
) -> None:
    own, full = score_before(files, small.chat(), _trial(spec), context, NF4)
    plain, _ = score_before(files, small.chat(), _trial(spec), context, None)
    assert full == plain
    assert own.key != plain.key
    assert own.test != plain.test


def test_before_key_follows_everything_that_moves_a_score(
    spec: EvalSpec, files: BaseFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = small.chat()
    keys = {
        "as it is": before_key(files, chat, _trial(spec), None),
        "four bits": before_key(files, chat, _trial(spec), NF4),
        "template": before_key(files, small.chat(template="chatml"), _trial(spec), None),
        "dtype": before_key(files, chat, _trial(spec.replace({"dtype": "bfloat16_autocast"})), None),
        "length": before_key(files, chat, _trial(spec.replace({"max_length": 256})), None),
        "items": before_key(files, chat, _trial(spec.replace({"items_seed": 1})), None),
        "fewer tasks": before_key(files, chat, _trial(spec.model_copy(update={"tasks": spec.tasks[:2]})), None),
    }
    monkeypatch.setitem(scoring.versions.BEHAVIOURS, "evals", 99)
    keys["behaviour"] = before_key(files, chat, _trial(spec), None)
    assert len(set(keys.values())) == len(keys), keys


def test_before_key_does_not_follow_what_moves_no_score(spec: EvalSpec, files: BaseFiles) -> None:
    raw = spec.model_copy(update={"tasks": tuple(task for task in spec.tasks if not task.chat)})
    assert before_key(files, small.chat(), _trial(raw), None) == before_key(
        files, small.chat(template="chatml"), _trial(raw, **{"train.learning_rate": 1e-4}), None
    )


# -- markers that were added ------------------------------------------------------------------------------------------


def _with_markers(**changes: str) -> ChatFormat:
    data = pinned_spec().data.replace({"template": "chatml_lite", "markers": "tokens"} | changes)
    return chat_format(tiny.tokenizer(), data)


def test_before_key_follows_added_markers_also_for_raw_text_and_no_others(spec: EvalSpec, files: BaseFiles) -> None:
    raw = spec.model_copy(update={"tasks": tuple(task for task in spec.tasks if not task.chat)})
    for asked in (spec, raw):
        forms = [small.chat(), _with_markers(), _with_markers(template="gemma")]
        assert len({before_key(files, form, _trial(asked), None) for form in forms}) == 3
    complete = _with_markers().tokenizer
    data = pinned_spec().data.replace({"template": "chatml_lite"})
    as_is, tokens = (chat_format(complete, data.replace({"markers": kind})) for kind in ("as_is", "tokens"))
    assert before_key(files, tokens, _trial(spec), None) == before_key(files, as_is, _trial(spec), None)


def test_before_key_follows_markers_made_text_also_for_raw_text(spec: EvalSpec, files: BaseFiles) -> None:
    raw = spec.model_copy(update={"tasks": tuple(task for task in spec.tasks if not task.chat)})
    data = pinned_spec().data.replace({"template": "alpaca"})
    for tokenizer in (_with_markers().tokenizer, tiny.tokenizer()):
        as_is, text = (chat_format(tokenizer, data.replace({"markers": kind})) for kind in ("as_is", "text"))
        for asked in (spec, raw):
            keys = {before_key(files, form, _trial(asked), None) for form in (as_is, text)}
            assert len(keys) == 1 + bool(text.changed.made_text)
    assert not text.changed.made_text


def test_before_key_follows_markers_that_the_vocabulary_held_as_pieces_of_text(
    spec: EvalSpec, files: BaseFiles
) -> None:
    tree = json.loads(_with_markers().tokenizer.backend_tokenizer.to_str())
    tree["model"]["vocab"] |= {token["content"]: token["id"] for token in tree["added_tokens"]}
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] not in MARKERS["chatml_lite"]]

    def reading(markers: str) -> ChatFormat:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(tree)), **tiny.tokenizer().special_tokens_map
        )
        return chat_format(tokenizer, pinned_spec().data.replace({"template": "chatml_lite", "markers": markers}))

    as_is, tokens = reading("as_is"), reading("tokens")
    assert (as_is.added, tokens.added) == ((), ())
    assert as_is.encode("<|user|>") != tokens.encode("<|user|>")
    assert before_key(files, as_is, _trial(spec), None) != before_key(files, tokens, _trial(spec), None)


@pytest.mark.parametrize("quantisation", [None, NF4])
def test_base_with_added_markers_scores_as_an_untrained_model_that_has_them(
    quantisation: Quantisation | None, spec: EvalSpec, files: BaseFiles, context: small.Context
) -> None:
    chat = _with_markers()
    before, _ = score_before(files, chat, _trial(spec), context, quantisation)
    model = models.load_model(files, "float32", "cpu", quantisation)
    models.add_rows(model, chat.tokenizer, chat.added)
    after = score_after(model, chat, spec, context, context.store.trial("t" * 64), _summary())
    assert after is not None
    assert (before.test, before.val) == (after.test, after.val)
    plain, _ = score_before(files, small.chat(), _trial(spec), context, quantisation)
    fluency = "small/perplexity/bits_per_byte"
    # further tokens take probability from all others
    assert (before.test[fluency].value or 0) > (plain.test[fluency].value or 0) > 0


# -- samples ----------------------------------------------------------------------------------------------------------


def test_sampler_answers_each_prompt_inside_the_template(spec: EvalSpec) -> None:
    chat = small.chat()
    rows = sampler(chat, PROMPTS, spec)(small.llama().train(), "before")
    assert [set(row) for row in rows] == [{"phase", "prompt", "answer", "stopped"}] * 2
    assert [row["prompt"] for row in rows] == [chat.render(p, add_generation_prompt=True) for p in PROMPTS]
    assert all(row["phase"] == "before" and isinstance(row["answer"], str) for row in rows)
    assert sampler(chat, [], spec)(small.llama(), "before") == []
