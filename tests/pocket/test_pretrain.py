"""The base model's build: bytes, tokenizer, template, refusals, and what pretraining leaves behind."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import SpecError
from harness.pocket import pretrain
from harness.pocket.people import ATTRIBUTES
from harness.pocket.world import build as build_world
from harness.spec import PocketBase
from tests.pocket.tiny import TINY_WORLD, tiny_base

HOSTILE_TEXTS = (
    "",
    " ",
    "Where was Mira Tolden born?\n",
    "12+345=357\nreverse: a b -> b a",
    "  two  spaces\t\ttabs\r\nand \u00a0 no-break",
    "naïve Straße 東京 \U0001f600 e\u0301",
    "\x00\x01 control <|endoftext|> <|im_start|>user\nhi<|im_end|>",
    "<|im_start|",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    pretrain.build(tiny_base(), folder, lambda **progress: None)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_same_spec_gives_the_same_bytes_whatever_was_drawn_before(built: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)
    torch.rand(7)
    pretrain.build(tiny_base(), tmp_path, lambda **progress: None)
    assert _digests(tmp_path) == _digests(built)


def test_another_world_seed_gives_other_weights(built: Path, tmp_path: Path) -> None:
    other = tiny_base().replace({"world.seed": 1, "model.num_steps": 50})
    pretrain.build(other, tmp_path, lambda **progress: None)
    assert _digests(tmp_path)["model.safetensors"] != _digests(built)["model.safetensors"]


def test_pretraining_lowers_the_loss_and_says_what_it_built(built: Path) -> None:
    summary = json.loads((built / "pretraining.json").read_text())
    assert summary["losses"][-1] < summary["losses"][0] - 1.0  # from ln 512 = 6.2 to about 4.5
    assert summary["passes"] >= 1.0
    exposures = summary["exposures_per_fact"]
    assert exposures["high"] / exposures["low"] == pytest.approx(12 / 2)
    weights = AutoModelForCausalLM.from_pretrained(built)
    assert sum(p.numel() for p in weights.parameters()) == summary["num_parameters"]


def test_build_reports_progress_and_leaves_torch_as_it_was(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    torch.manual_seed(5)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    pretrain.build(tiny_base(), tmp_path, lambda **progress: rows.append(progress))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["step"] == rows[-1]["num_steps"] == tiny_base().model.num_steps
    assert all(set(row) == {"phase", "step", "num_steps", "loss", "tokens_per_second"} for row in rows)


def test_any_text_encodes_and_decodes_to_itself(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    for text in HOSTILE_TEXTS:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_offsets_of_tokens_cover_the_text_without_gaps(built: Path) -> None:
    # of a character of several bytes every byte has the whole character's offsets, so only ASCII texts chain exactly
    tokenizer = AutoTokenizer.from_pretrained(built)
    for text in HOSTILE_TEXTS[2:4]:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        assert offsets[0][0] == 0
        assert offsets[-1][1] == len(text)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(offsets))


def test_digits_are_single_tokens_and_markers_are_atomic(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    assert tokenizer.tokenize("123+45=168") == ["1", "2", "3", "+", "4", "5", "=", "1", "6", "8"]
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and any(c.isdigit() for c in token)]
    for marker in (pretrain.END_OF_TEXT, pretrain.START_OF_TURN, pretrain.END_OF_TURN):
        assert len(tokenizer(f"a{marker}b", add_special_tokens=False)["input_ids"]) == 3
    assert len(tokenizer) <= tiny_base().model.vocab_size


def test_saved_template_renders_chatml(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2+2?"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    )
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "4"}], tokenize=False)
    assert whole == rendered + "4<|im_end|>\n"


def test_generation_stops_at_end_of_turn_and_end_of_text(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    stops = AutoModelForCausalLM.from_pretrained(built).generation_config.eos_token_id
    assert set(stops) == {tokenizer.convert_tokens_to_ids(t) for t in (pretrain.END_OF_TURN, pretrain.END_OF_TEXT)}


@pytest.mark.parametrize("rows", ["untrained", "trained"])
def test_markers_occur_in_pretraining_exactly_when_they_are_trained(rows: str) -> None:
    documents = build_world(TINY_WORLD).corpus()
    if rows == "trained":
        documents = pretrain.with_markers(documents)
    marked = [document for document in documents if pretrain.END_OF_TURN in document.text]
    assert bool(marked) == (rows == "trained")
    assert all(document.kind == "records" for document in marked)
    assert all("assistant" not in document.text and "user" not in document.text for document in marked)


def test_values_that_share_first_tokens_are_counted() -> None:
    documents = build_world(TINY_WORLD.replace({"people_per_tier": 60})).corpus()  # so that each value occurs
    few = pretrain.first_token_problems(pretrain.train_tokenizer(documents, 300))
    assert len(few) == len(ATTRIBUTES)
    assert all(re.search(r"^the 12 values of '\w+' begin with \d+ different tokens$", problem) for problem in few)
    assert pretrain.first_token_problems(pretrain.train_tokenizer(documents, 2048)) == []


def test_budget_below_the_planned_exposures_is_refused_before_training(tmp_path: Path) -> None:
    reports: list[object] = []
    starved: PocketBase = tiny_base().replace({"model.num_steps": 3})
    with pytest.raises(SpecError, match=r"num_steps is 3, but must be at least \d\d"):
        pretrain.build(starved, tmp_path, lambda **progress: reports.append(progress))
    assert not reports
    assert list(tmp_path.iterdir()) == []


def test_budget_that_is_left_out_is_one_pass_that_meets_everybody_as_planned(tmp_path: Path) -> None:
    pretrain.build(tiny_base().replace({"model.num_steps": None}), tmp_path, lambda **progress: None)
    summary = json.loads((tmp_path / "pretraining.json").read_text())
    # the last step begins the corpus again: 512 tokens a step of 12 000
    assert 1.0 <= summary["passes"] < 1.05
    told = summary["exposures_per_fact"]
    assert {tier: told[tier] for tier in ("high", "mid", "low", "unknown")} == pytest.approx(
        {"high": 12, "mid": 6, "low": 2, "unknown": 0}, rel=0.05
    )
    # what answers tell of the asked comes on top of their tier
    assert told["high, asked"] - told["high"] > 1
    assert told["mid, asked"] - told["mid"] > 1


def test_learning_rate_warms_up_and_ends_near_two_percent() -> None:
    model = tiny_base().model
    rates = [pretrain.learning_rate_at(model, 200, step) for step in range(200)]
    assert max(rates) == pytest.approx(model.learning_rate)
    assert rates.index(max(rates)) <= 0.06 * 200
    assert rates[-1] == pytest.approx(0.02 * model.learning_rate, rel=0.2)
