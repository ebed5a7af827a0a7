"""A whole trial on a base that has markers as tokens, which the trial reads as text."""

from __future__ import annotations

import torch

from harness.records.store import Store
from harness.spec import TrialBase
from tests.engine.test_token_markers import ENDS, QUESTION, as_saved, asked, ran, store

__all__ = ["store"]


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
