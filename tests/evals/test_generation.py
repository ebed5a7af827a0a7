from __future__ import annotations

from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from harness.errors import DataError
from harness.evals import generation
from harness.evals.forward import evaluating
from harness.evals.generation import Decoded, greedy_decode
from harness.evals.scorer import Scorer
from tests.evals import small
from tests.models import tiny

PROMPTS = [[5, 80, 99], [7], list(range(20, 60)), [31, 64, 31, 64, 31], [200, 250], [120] * 9]
LENGTH = 24


@pytest.fixture(scope="module")
def model() -> Any:
    return small.llama()


def _decode(model: Any, batch_size: int, stop_ids: tuple[int, ...] = (), **settings: Any) -> list[Decoded]:
    with evaluating(model, "float32"):
        return greedy_decode(
            model, PROMPTS, stop_ids=stop_ids, max_new_tokens=LENGTH, batch_size=batch_size, **settings
        )


def _reference(model: Any, prompt: list[int]) -> list[int]:
    """Greedy decoding without a cache, a batch or padding."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(LENGTH):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def reference(model: Any) -> list[list[int]]:
    return [_reference(model, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_answers_of_any_batch_equal_decoding_one_by_one(
    batch_size: int, model: Any, reference: list[list[int]]
) -> None:
    assert [answer.tokens for answer in _decode(model, batch_size)] == reference


def test_answers_of_padding_that_is_not_masked_differ(
    model: Any, reference: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = generation.left_padded
    monkeypatch.setattr(
        generation, "left_padded", lambda prompts: (padded(prompts)[0], torch.ones_like(padded(prompts)[1]))
    )
    assert [answer.tokens for answer in _decode(model, 64)] != reference


def test_answers_end_at_their_own_stop_token_while_others_go_on(model: Any, reference: list[list[int]]) -> None:
    stop = reference[0][4]
    expected = [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in reference]
    answers = _decode(model, 64, (stop,))
    assert [answer.tokens for answer in answers] == expected
    assert [answer.stopped for answer in answers] == [stop in tokens for tokens in reference]
    assert len({len(tokens) for tokens in expected}) > 1  # else nothing went on


def test_answers_end_where_the_caller_says(model: Any, reference: list[list[int]]) -> None:
    answers = _decode(model, 64, has_ended=lambda tokens: len(tokens) == 3)
    assert [answer.tokens for answer in answers] == [tokens[:3] for tokens in reference]
    assert all(answer.stopped for answer in answers)


def test_answers_of_a_model_that_gives_no_numbers_are_flagged() -> None:
    broken = small.llama()
    broken.model.norm.weight.data.fill_(float("nan"))
    assert not any(answer.is_finite for answer in _decode(broken, 4))


def test_prompt_that_leaves_no_room_is_cut_and_noted() -> None:
    tokenizer = tiny.tokenizer()
    model = small.llama(max_position_embeddings=64)
    scorer = Scorer(model, small.chat(tokenizer), small.evals(), batch_size=4)
    with evaluating(model, "float32"):
        scorer.generate_until(small.questions(["a dog " * 60, "a dog"], 16, []))
        assert scorer.cut == {("qa", 0)}
        with pytest.raises(DataError, match="max_new_tokens is 64"):
            scorer.generate_until(small.questions(["a dog"], 64, []))


def test_turn_end_without_a_token_of_its_own_still_ends_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`<|end|>` is several tokens to this tokenizer; the answer must end there all the same."""
    tokenizer = tiny.tokenizer()
    chat = small.chat(tokenizer)
    script = tokenizer.encode("a dog<|end|> and the sea", add_special_tokens=False)
    assert len(tokenizer.encode("<|end|>", add_special_tokens=False)) > 1

    def scripted(model: Any, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, **arguments: Any) -> Any:
        step = int(arguments["attention_mask"].shape[1]) - prompt_length
        return torch.nn.functional.one_hot(torch.tensor([script[step]]), tiny.VOCAB).float(), None

    model = small.llama()
    scorer = Scorer(model, chat, small.evals(), batch_size=1)
    prompt = tuple(chat.encode(chat.render([{"role": "user", "content": "x"}], add_generation_prompt=True)))
    prompt_length = len(prompt)
    monkeypatch.setattr(generation, "selected_logits", scripted)
    (answer,) = scorer.answer([prompt], scorer.turn_ends, len(script), is_chat=True)
    assert (str(answer), answer.stopped) == ("a dog", True)
    (answer,) = scorer.answer([prompt], (), len(script), is_chat=True)
    assert (str(answer), answer.stopped) == ("a dog<|end|> and the sea", False)


real = pytest.mark.skipif(not small.REAL.is_dir(), reason="needs the real models and data beside the checkout")


@real
@pytest.mark.real
@pytest.mark.parametrize(("name", "stops"), [
    ("stories260K", ["<s>", "</s>"]), ("stories15M", ["<s>", "</s>"]), ("minimind2-small", ["<|im_end|>"]),
])  # fmt: skip
@pytest.mark.parametrize("batch_size", [1, 6])
def test_real_base_writes_what_it_writes_under_hflm(name: str, stops: list[str], batch_size: int) -> None:
    model, tokenizer = small.real_model(name)
    chat = small.chat(tokenizer, "tokenizer" if tokenizer.chat_template else "plain")
    prompts = [row["text"][: 40 + 9 * n] for n, row in enumerate(small.real_rows("lm/tinystories.test.jsonl", 12))]
    if tokenizer.chat_template:  # outside its template this base answers nothing
        prompts = [chat.render([{"role": "user", "content": text}], add_generation_prompt=True) for text in prompts]
    # All of its stop tokens: lm-eval itself knows only one.
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device="cpu")
    theirs = hflm.generate_until(small.questions(prompts, 40, ["\n", *stops]), disable_tqdm=True)
    scorer = Scorer(model, chat, small.evals(), batch_size=5)
    with evaluating(model, "float32"):
        ours = scorer.generate_until(small.questions(prompts, 40, ["\n"]))
    assert ours == theirs
    assert len(set(ours)) > 6
