"""Whole trials that read markers otherwise than their base: as tokens that it lacks, or as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from harness import data, methods, models
from harness.engine import catalog, launch, plan
from harness.engine.launch import Options
from harness.engine.plan import Request
from harness.errors import DataError
from harness.identity import base_key
from harness.pocket import pretrain
from harness.pocket.world import eval_task
from harness.records import result
from harness.records.schema import TrialResult
from harness.records.store import Store
from harness.spec import Axis, LoraConfig, PocketBase, QLoraConfig, TrialBase, TrialSpec
from harness.trial import TrialContext, run_trial
from tests.data.tiny import REAL
from tests.engine.inline import inline
from tests.engine.test_plan import sweep_of, with_qlora
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


def swept(store: Store, monkeypatch: pytest.MonkeyPatch, template: str) -> tuple[list[TrialResult], list[str]]:
    """Return the results of a sweep over the markers of a template, and what failed."""
    axis = Axis(field="data.markers", values=("as_is", "text", "tokens"))
    monkeypatch.setattr(catalog, "load_experiment", lambda name: with_qlora(tiny_experiment()))
    monkeypatch.setattr(catalog, "load_sweep", lambda name: sweep_of(axis))
    setting = {"data.template": template, "method": "lora", "train.num_steps": 2, "evals.num_items": 4}
    planned = plan.make_plan(Request(name="s", base="tiny", set=json.dumps(setting), out=store.root))
    summary = launch.launch(
        planned.store, planned.record.trials, tiny_experiment().runtime, Options(1, executor=inline)
    )
    done = [result.read(planned.store.trial(trial.trial_id)) for trial in planned.record.trials]
    return [one for one in done if one is not None], [str(one) for one in summary.failed]


def test_markers_are_an_axis_whose_levels_differ_in_tokens_and_in_what_the_base_scores(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, failed = swept(store, monkeypatch, "chatml_lite")
    assert failed == []
    assert [record.spec.data.markers for record in records] == ["as_is", "text", "tokens"]
    as_is, text, tokens = records
    assert as_is.data.mean_tokens == text.data.mean_tokens
    assert (as_is.data.mean_tokens or 0) > (tokens.data.mean_tokens or 0) > 0
    assert len({record.before.key for record in records}) == 3
    assert tokens.train.total_parameters == as_is.train.total_parameters + 4 * 32
    assert tokens.train.trainable_parameters == as_is.train.trainable_parameters + 4 * 32


def test_sweep_over_the_markers_of_a_template_without_any_is_refused_before_a_trial_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"data\.markers is 'tokens', but must be .* 'alpaca' has no markers"):
        swept(store, monkeypatch, "alpaca")


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


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real models in {REAL}")
@pytest.mark.parametrize("name", ["minimind2-small", "stories15M", "stories260K"])
@pytest.mark.parametrize("method", METHODS)
def test_real_model_with_added_markers_starts_as_its_base_and_is_saved_whole(
    method: str, name: str, tmp_path: Path
) -> None:
    config = METHODS[method]
    files = models.inspect_folder(REAL / "models" / name)
    asked_data = tiny_experiment().spec.data.replace({"template": "chatml_lite", "markers": "tokens"})
    chat = data.chat_format(models.load_tokenizer(files), asked_data)
    assert chat.added_tokens == MARKERS
    ids = torch.tensor([chat.encode(chat.render([*QUESTION, {"role": "assistant", "content": "It is 4."}]))])
    model = models.load_model(files, "float32", "cpu", methods.quantisation(config))
    models.add_rows(model, chat.tokenizer, chat.added)
    with torch.no_grad():
        before = model(ids).logits
        tuned: Any = methods.attach(model, config, seed=0, added=chat.added).eval()
        assert torch.equal(tuned(ids).logits, before)
    tuned(ids, labels=ids).loss.backward()
    torch.optim.SGD([one for one in tuned.parameters() if one.requires_grad], lr=0.1).step()
    methods.save(tuned, config, tmp_path / "weights", "all", chat.tokenizer, chat.stop_token_ids)

    tok = AutoTokenizer.from_pretrained(tmp_path / "weights", local_files_only=True)
    shown = [*QUESTION, {"role": "assistant", "content": "It is 4."}]
    assert tok.apply_chat_template(shown, return_dict=False) == ids[0].tolist()
    if method == "full":
        plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "weights").eval()
    else:
        base = models.load_model(files, "float32", "cpu", methods.quantisation(config))
        if len(tok) > files.vocab_size:
            base.resize_token_embeddings(len(tok))
        plain = PeftModel.from_pretrained(base, str(tmp_path / "weights")).eval()
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, tuned(ids).logits)
        assert not torch.equal(plain(ids).logits, before)


# -- as text ----------------------------------------------------------------------------------------------------------


def test_trial_learns_to_end_its_turns_with_text_and_what_it_saves_reads_and_writes_that_text(store: Store) -> None:
    spec = asked("full").replace({"data.template": "chatml", "data.markers": "text"})
    asking, other = spec.evals.tasks
    longer = [asking.replace({"max_new_tokens": 48}), other]  # the text of an end takes ten tokens
    spec = spec.replace({"evals.tasks": [task.model_dump(mode="json") for task in longer]})
    record = ran(spec, store)
    as_is = ran(spec.replace({"data.markers": "as_is", "train.num_epochs": 1.0}), store)
    assert record.data.rows_sha256 != as_is.data.rows_sha256
    assert record.after is not None
    assert record.before.test[ENDS].value == 0
    assert (record.after.test[ENDS].value or 0) > 0.5

    tok, model, ends = as_saved(spec, record, store)
    prompt = tok.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    assert not {"<|im_start|>", "<|im_end|>"} & set(tok.get_vocab())
    ends.update(max_new_tokens=48, do_sample=False, stop_strings=["<|im_end|>"])
    mask = torch.ones_like(prompt)
    written = model.generate(prompt, attention_mask=mask, generation_config=ends, tokenizer=tok)[0]
    answer = tok.decode(written[prompt.shape[1] :])
    assert answer.count("<|im_end|>") == 1
    assert answer.endswith("<|im_end|>")

    # a further trial begins from these weights, whose tokenizer reads the markers as text by itself
    child = spec.replace({"base": TrialBase(trial_id=record.trial_id), "train.num_epochs": 1.0})
    for markers in ("text", "as_is"):
        continued = ran(child.replace({"data.markers": markers}), store)
        assert continued.data.rows_sha256 == record.data.rows_sha256
        assert continued.before.test[ENDS].value == record.after.test[ENDS].value
