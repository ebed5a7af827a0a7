from __future__ import annotations

import gc
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data import encoding, masks, prepare
from harness.data.chat import ChatFormat
from harness.data.masks import Rendered
from harness.data.prepare import Example
from harness.errors import DataError
from harness.spec import PocketData
from tests.data.tiny import TURNS, chat, pairs, prepared, spec, tokenizer, write_rows
from tests.pocket.tiny import TINY_WORLD


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", pairs(40))


def ids(examples: list[Example]) -> list[str]:
    return [example.row_id for example in examples]


# -- selection --------------------------------------------------------------------------------------------------------


def test_subsets_of_one_seed_are_nested_and_of_two_seeds_differ(rows: Path) -> None:
    small, large = (ids(prepared(rows, num_examples=n, num_validation=8).train) for n in (10, 25))
    assert large[:10] == small
    assert ids(prepared(rows, num_examples=10, num_validation=8, seed=1).train) != small


def test_validation_rows_are_the_same_for_every_seed_and_size_and_never_trained_on(rows: Path) -> None:
    variants = [prepared(rows, num_examples=n, num_validation=8, seed=seed) for n in (4, 32) for seed in (0, 1)]
    assert len({tuple(ids(one.validation)) for one in variants}) == 1
    assert all(not set(ids(one.train)) & set(ids(one.validation)) for one in variants)
    assert {tuple(p[0]["content"] for p in one.sample_prompts) for one in variants} == {
        tuple(f"What is {name[1:]}?" for name in ids(variants[0].validation)[:4])
    }


def test_all_rows_are_taken_once(rows: Path) -> None:
    whole = prepared(rows, num_validation=8)
    assert sorted(ids(whole.train) + ids(whole.validation)) == sorted(f"r{i}" for i in range(40))


def test_size_larger_than_the_data_is_refused_with_both_numbers(rows: Path) -> None:
    with pytest.raises(
        DataError, match=r"data\.num_examples is 33, but must be at most 32: the data has 40 rows, less 8"
    ):
        prepared(rows, num_examples=33, num_validation=8)
    with pytest.raises(DataError, match=r"data\.num_validation is 41, but must be at most 40: the data has 40 rows"):
        prepared(rows, num_validation=41)


def test_completion_ratio_keeps_the_halves(rows: Path) -> None:
    low, high = (prepared(rows, completion_ratio=which, num_validation=8) for which in ("low", "high"))
    assert len(low.train) == len(high.train) == 16
    assert not set(ids(low.train)) & set(ids(high.train))
    assert ids(low.validation) == ids(high.validation)
    assert low.summary.completion_prompt_ratio is not None
    assert high.summary.completion_prompt_ratio is not None
    assert low.summary.completion_prompt_ratio < high.summary.completion_prompt_ratio
    with pytest.raises(DataError, match=r"at most 16: .* data\.completion_ratio 'low' keeps half"):
        prepared(rows, completion_ratio="low", num_validation=8, num_examples=17)


def test_loss_mask_conditions_train_on_the_same_rows(tmp_path: Path) -> None:
    # Truncation leaves some rows without an answer: whether they are dropped must not depend on the mask.
    data = [{"id": f"r{i}", "messages": [{"role": "user", "content": "What? " * i}, TURNS[1]]} for i in range(1, 30)]
    path = write_rows(tmp_path / "rows.jsonl", data)
    fields = {"max_length": 40, "too_long": "truncate_right"}
    masks: list[dict[str, Any]] = [{}, {"prompt_loss_weight": 1.0}, {"train_on_role_header": True}]
    variants = [prepared(path, **fields, **mask) for mask in masks]
    assert len({tuple(ids(one.train)) for one in variants}) == 1
    assert variants[0].summary.num_rows_dropped["no_trained_token"] > 0


def test_the_same_spec_gives_the_same_bytes(rows: Path) -> None:
    first, second = (prepared(rows, num_examples=20, num_validation=4, seed=3) for _ in range(2))
    assert first.summary == second.summary
    assert first.summary.rows_sha256 != prepared(rows, num_examples=20, num_validation=4, seed=4).summary.rows_sha256
    weighed = prepared(rows, num_examples=20, num_validation=4, seed=3, prompt_loss_weight=0.1)
    assert weighed.summary.rows_sha256 != first.summary.rows_sha256


# -- length -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    long = {"id": "long", "messages": [TURNS[0], {"role": "assistant", "content": "Paris. " * 40}]}
    return write_rows(tmp_path / "rows.jsonl", [{"id": "short", "messages": TURNS[:2]}, long])


def test_row_that_is_too_long_is_dropped_and_counted(uneven: Path) -> None:
    data = prepared(uneven, max_length=60, too_long="drop")
    assert ids(data.train) == ["short"]
    assert data.summary.num_rows_dropped == {"too_long": 1}
    assert data.summary.num_truncated == 0


def test_dropped_row_makes_room_for_the_next(uneven: Path) -> None:
    for seed in range(3):
        assert ids(prepared(uneven, max_length=60, num_examples=1, seed=seed).train) == ["short"]
    with pytest.raises(DataError, match=r"is 2, but must be at most 1: .*less those dropped \(too_long: 1\)"):
        prepared(uneven, max_length=60, num_examples=2)


def test_row_that_is_too_long_raises_where_asked(uneven: Path) -> None:
    with pytest.raises(DataError, match=r"row 'long' has \d+ tokens, but must have at most data\.max_length, 60"):
        prepared(uneven, max_length=60, too_long="raise")


def test_rows_cut_to_length_are_counted_among_the_training_rows_alone(tmp_path: Path) -> None:
    rows = [TURNS[0], {"role": "assistant", "content": "Paris. " * 40}]
    path = write_rows(tmp_path / "rows.jsonl", [{"id": str(n), "messages": rows} for n in range(10)])
    data = prepared(path, max_length=60, too_long="truncate_right", num_validation=4)
    assert (len(data.validation), len(data.train), data.summary.num_truncated) == (4, 6, 6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_keeps_one_side_and_bos(side: str, uneven: Path) -> None:
    tok = tokenizer(adds_bos=True)
    whole = {e.row_id: e for e in prepared(uneven, tok=tok).train}["long"]
    cut = {e.row_id: e for e in prepared(uneven, tok=tok, max_length=60, too_long=f"truncate_{side}").train}["long"]
    assert len(cut.input_ids) == len(cut.loss_weights) == 60
    assert cut.input_ids[0] == tok.bos_token_id
    rest = slice(1, 60) if side == "right" else slice(-59, None)
    assert cut.input_ids[1:].tolist() == whole.input_ids[rest].tolist()
    assert cut.loss_weights[1:].tolist() == whole.loss_weights[rest].tolist()


def test_truncation_on_the_left_without_bos_leaves_the_first_token_unweighted(uneven: Path) -> None:
    cut = {e.row_id: e for e in prepared(uneven, max_length=60, too_long="truncate_left").train}["long"]
    assert cut.loss_weights[0] == 0.0
    assert cut.loss_weights[1:].min() == 1.0


# -- what else may be in a source -------------------------------------------------------------------------------------


def test_texts_are_trained_on_whole_between_bos_and_eos(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "The capital of France is Paris."}])
    tok = tokenizer(adds_bos=True)
    example = prepared(path, tok=tok).train[0]
    assert example.input_ids[[0, -1]].tolist() == [tok.bos_token_id, tok.eos_token_id]
    assert tok.decode(example.input_ids[1:-1]) == "The capital of France is Paris."
    assert example.loss_weights.tolist() == [0.0] + [1.0] * (len(example.input_ids) - 1)
    assert prepared(path, tok=tok, train_on_end_of_turn=False).train[0].loss_weights[-1] == 0.0
    with pytest.raises(DataError, match="must be 'any' for raw texts"):
        prepared(path, completion_ratio="low")


def test_data_without_a_row_to_train_on_is_refused_with_the_reasons(rows: Path) -> None:
    with pytest.raises(
        DataError, match=r"is None, but there is no row to train on: the data has 40 rows.*too_long: 40"
    ):
        prepared(rows, max_length=8)


def test_row_that_the_template_refuses_is_dropped_and_counted(tmp_path: Path) -> None:
    odd = {"id": "odd", "messages": [TURNS[0], TURNS[0], TURNS[1]]}
    path = write_rows(tmp_path / "rows.jsonl", [{"id": "even", "messages": TURNS}, odd])
    tok = tokenizer()
    tok.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
        "{% endif %}{{ m.content + '\n' }}{% endfor %}"
    )
    data = prepared(path, tok=tok, template="tokenizer")
    assert ids(data.train) == ["even"]
    assert data.summary.num_rows_dropped == {"template_refuses": 1}


def test_summary_counts_what_is_trained_on(tmp_path: Path) -> None:
    bad = {"id": "bad", "messages": [TURNS[0]]}
    data = prepared(write_rows(tmp_path / "rows.jsonl", [{"id": "a", "messages": TURNS}, bad]))
    example, summary = data.train[0], data.summary
    assert (summary.num_rows_read, summary.num_train, summary.num_rows_dropped) == (2, 1, {"no_assistant_turn": 1})
    assert summary.mean_tokens == len(example.input_ids)
    assert summary.loss_token_share == pytest.approx(np.count_nonzero(example.loss_weights) / len(example.input_ids))
    answers, prompts = ("The answer is 4.Paris.", "What is 2+2?What is the capital of France?")
    assert summary.completion_prompt_ratio == pytest.approx(len(answers) / len(prompts))
    assert summary.mask_engine == "offsets_and_prefixes"
    assert (example.input_ids.dtype, example.loss_weights.dtype) == (np.int64, np.float32)


def test_pocket_rows_are_prepared_with_a_weight_on_every_answer() -> None:
    asked = spec(
        source=PocketData(world=TINY_WORLD, families=("fact", "sum"), num_rows=60), num_examples=40, num_validation=10
    )
    data = prepare(asked, chat(), seed=0)
    assert (len(data.train), len(data.validation), len(data.sample_prompts)) == (40, 10, 4)
    assert all(example.loss_weights.any() for example in data.train)
    assert data.summary.num_rows_dropped == {}


# -- batches ----------------------------------------------------------------------------------------------------------


def odd_rows() -> list[dict[str, Any]]:
    """Return conversations of one and of three exchanges, some of which are cut, and some of which cannot be used."""
    many = [{"id": f"m{n}", "messages": TURNS * (1 + n % 3)} for n in range(20)]
    spelling = [TURNS[0], {"role": "assistant", "content": "<|im_end|>"}]
    rows = [*pairs(20), *many, *({"id": f"c{n}", "messages": spelling} for n in range(5))]
    return [rows[(7 * n) % len(rows)] for n in range(len(rows))]


@pytest.mark.parametrize("wanted", [None, 12])
def test_rows_do_not_depend_on_how_many_are_encoded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int | None
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", odd_rows())
    settings: dict[str, Any] = {"max_length": 64, "too_long": "drop", "control_text": "drop", "num_examples": wanted}
    together = prepared(path, num_validation=4, **settings)
    assert together.summary.num_rows_dropped.keys() >= {"too_long", "control_token_in_text"}
    for name, value in (("BATCH_CHARACTERS", 1), ("BATCH_ROWS", 1), ("BATCH_ROWS", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(encoding, name, value)
            apart = prepared(path, num_validation=4, **settings)
        assert apart.summary == together.summary
        assert ids(apart.train) == ids(together.train)
        assert sorted(apart.dropped) == sorted(together.dropped)


def test_fault_in_a_later_batch_is_raised_and_leaves_nothing_behind(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BATCH_ROWS", 4)
    encode, calls = masks.encode, list[int]()

    def third(form: ChatFormat, texts: list[Rendered]) -> masks.Encodings:
        calls.append(len(texts))
        if len(calls) == 3:
            raise DataError("the third batch cannot be read")
        return encode(form, texts)

    monkeypatch.setattr(masks, "encode", third)
    with pytest.raises(DataError, match="the third batch"):
        prepared(rows)
    assert gc.isenabled()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encoding")]
    assert signal.getsignal(signal.SIGPROF) is signal.SIG_DFL
