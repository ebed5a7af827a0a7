"""Whole trials whose markers are added to a base that lacks them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from harness import data, methods, models
from harness.identity import base_key
from harness.pocket import pretrain
from harness.pocket.world import eval_task
from harness.records.schema import TrialResult
from harness.records.store import Store
from harness.spec import LoraConfig, PocketBase, QLoraConfig, TrialBase, TrialSpec
from harness.trial import TrialContext, run_trial
from tests.pocket.tiny import TINY_WORLD, tiny_experiment

ADAPTER = {"rank": 4, "alpha": 8.0, "target_modules": "all_linear"}
METHODS = {
    "full": tiny_experiment().spec.method,
    "lora": LoraConfig(**ADAPTER),
    "qlora": QLoraConfig(**ADAPTER),
}
MARKERS = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
QUESTION = [{"role": "user", "content": "What is 2 plus 2?"}]
ENDS = "pocket/question_asked/end_of_turn"


def asked(method: str, **changes: Any) -> TrialSpec:
    spec = tiny_experiment().spec.replace({"data.template": "chatml_lite", "data.markers": "tokens"})
    rate = 1e-2 if method == "full" else 3e-2
    tasks = [eval_task(TINY_WORLD, name).replace({"num_items": 16}) for name in ("question_asked", "cloze_unasked")]
    spec = spec.replace({"evals.tasks": [task.model_dump(mode="json") for task in tasks]})
    return spec.replace({"method": METHODS[method], "train.num_epochs": 30.0, "train.learning_rate": rate} | changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("markers"))
    spec = tiny_experiment().spec
    assert isinstance(spec.base, PocketBase)
    base = spec.base
    store.ensure_artefact("base", base_key(spec), lambda folder: pretrain.build(base, folder, lambda **_: None))
    return store


def ran(spec: TrialSpec, store: Store) -> TrialResult:
    runtime = tiny_experiment().runtime.replace({"keep": "all", "device": "cpu"})
    return run_trial(spec, TrialContext(store, runtime, command="", report=lambda **_: None))


def as_saved(spec: TrialSpec, record: TrialResult, store: Store) -> tuple[Any, Any, Any]:
    """Return what plain libraries make of a trial's weights: tokenizer, model, generation settings."""
    folder = store.trial(record.trial_id) / "weights"
    tok = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ends = GenerationConfig.from_pretrained(folder)
    if spec.method.kind == "full":
        return tok, AutoModelForCausalLM.from_pretrained(folder).eval(), ends
    base = models.load_model(models.locate(spec.base, store), "float32", "cpu", methods.quantisation(spec.method))
    base.resize_token_embeddings(len(tok))
    return tok, PeftModel.from_pretrained(base, str(folder)).eval(), ends


@pytest.mark.parametrize("method", METHODS)
def test_trial_learns_to_end_its_turns_with_an_added_marker_and_so_does_what_it_saves(
    method: str, store: Store
) -> None:
    spec = asked(method)
    record = ran(spec, store)
    assert record.data.added_tokens == MARKERS
    assert record.after is not None
    assert record.before.test[ENDS].value == 0
    assert (record.after.test[ENDS].value or 0) > 0.5

    tok, model, ends = as_saved(spec, record, store)
    chat = data.chat_format(models.load_tokenizer(models.locate(spec.base, store)), spec.data)
    prompt = tok.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    assert prompt[0].tolist() == chat.encode(chat.render(QUESTION, add_generation_prompt=True))
    (end,) = chat.turn_token_ids
    assert ends.eos_token_id == list(chat.stop_token_ids)
    assert end in ends.eos_token_id
    ends.update(max_new_tokens=40, do_sample=False)
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=ends)[0].tolist()
    assert written[-1] == end == tok.convert_tokens_to_ids("<|end|>")
    assert len(written) < prompt.shape[1] + 40
    assert written.count(end) == 1

    # a further trial begins from these weights, with the markers in its vocabulary
    child = spec.replace({"base": TrialBase(trial_id=record.trial_id), "train.num_epochs": 1.0})
    continued = ran(child, store)
    assert continued.data.added_tokens == []
    assert continued.data.rows_sha256 == record.data.rows_sha256
    # the merge of an adapter, and float32 for a base in 4 bits, move a score by rounding
    assert continued.before.test[ENDS].value == pytest.approx(record.after.test[ENDS].value, abs=0.2)


def test_markers_as_an_axis_differ_in_how_many_tokens_they_cost(store: Store) -> None:
    records = {
        kind: ran(asked("lora", **{"data.markers": kind, "train.num_epochs": 1.0}), store)
        for kind in ("as_is", "text", "tokens")
    }
    lengths = {kind: record.data.mean_tokens for kind, record in records.items()}
    assert lengths["as_is"] == lengths["text"]
    assert (lengths["as_is"] or 0) > (lengths["tokens"] or 0) > 0
    assert len({record.before.key for record in records.values()}) == 3
    assert len({record.trial_id for record in records.values()}) == 3
    as_is, tokens = (records[kind].train.total_parameters for kind in ("as_is", "tokens"))
    assert tokens == as_is + 4 * 32
    assert records["tokens"].train.trainable_parameters == records["as_is"].train.trainable_parameters + 4 * 32


def test_markers_that_a_base_has_give_the_numbers_of_as_is(store: Store) -> None:
    records = [
        ran(tiny_experiment().spec.replace({"data.template": "chatml", "data.markers": kind}), store)
        for kind in ("as_is", "tokens")
    ]
    one, other = (
        record.model_dump(exclude={"trial_id", "spec", "provenance", "files"}, mode="json") for record in records
    )
    assert records[0].trial_id != records[1].trial_id
    for tree in (one, other):
        tree["after"] = {key: tree["after"][key] for key in ("test", "val")}
    assert one == other
