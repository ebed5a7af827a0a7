"""Our scorer against lm-eval's own, and against versions of itself that are broken on purpose.

Tolerance 1e-4 nats an item: what float32 sums of a few hundred terms differ by when they are added in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from harness.evals import likelihood
from harness.evals.forward import evaluating
from harness.evals.likelihood import Likelihood, Request, log_likelihoods
from harness.evals.scorer import Scorer
from harness.seeding import preserved_rng
from tests.evals import small
from tests.models import tiny

TOLERANCE = 1e-4
ROWS = [
    {"query": "Once upon a time there was", "choices": ["a little girl", "a man and his dog", "the sea"]},
    {"query": "Once upon a time there was", "choices": ["a park.", "a little girl"]},
    {"query": "The capital of France is\n", "choices": ["Paris", "12", "a dog of the sea", "7"]},
    {"query": "", "choices": ["A man went to the sea.", "The sea went to a man."]},
    {"query": "12 plus 7 is", "choices": [" 19", "19 and 12 plus 7 is 19", "x"]},
    {"query": "a dog " * 60, "choices": ["one", "a much longer choice that makes the context too long to fit"]},
]


def _hflm(model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int = 3, **settings: Any) -> HFLM:
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device="cpu", **settings)


def _scorer(model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8, **changes: Any) -> Scorer:
    chat = small.chat(tokenizer)
    return Scorer(model, chat, small.evals(**changes), batch_size=batch_size)


def _ours(model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int = 8) -> list[tuple[float, bool]]:
    with evaluating(model, "float32"):
        return _scorer(model, tokenizer, batch_size).loglikelihood(small.choices(ROWS))


def _largest_gap(ours: list[tuple[float, bool]], theirs: list[tuple[float, bool]]) -> float:
    return max(abs(one[0] - other[0]) for one, other in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def model() -> Any:
    """A context of 128 tokens: the last row of ROWS does not fit."""
    return small.llama(max_position_embeddings=128)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def theirs(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[tuple[float, bool]]:
    return _hflm(model, tokenizer).loglikelihood(small.choices(ROWS), disable_tqdm=True)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_likelihoods_of_any_batch_size_equal_those_of_hflm(
    batch_size: int, model: Any, tokenizer: PreTrainedTokenizerBase, theirs: list[tuple[float, bool]]
) -> None:
    ours = _ours(model, tokenizer, batch_size)
    assert _largest_gap(ours, theirs) < TOLERANCE
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def _off_by_one(flat: Callable[..., Any]) -> Callable[..., Any]:
    def broken(batch: Any) -> tuple[list[int], list[int]]:
        sources, tokens = flat(batch)
        return [max(0, source - 1) for source in sources], tokens

    return broken


def _without_mask(attention: Callable[..., Any]) -> Callable[..., Any]:
    return lambda batch, device: {}


def _without_positions(attention: Callable[..., Any]) -> Callable[..., Any]:
    def broken(batch: Any, device: torch.device) -> dict[str, torch.Tensor]:
        arguments = attention(batch, device)
        arguments.pop("position_ids", None)
        return arguments

    return broken


@pytest.mark.parametrize(
    ("part", "breaking"),
    [("_flat_targets", _off_by_one), ("_attention", _without_mask), ("_attention", _without_positions)],
)
def test_likelihoods_of_a_broken_build_do_not_equal_those_of_hflm(
    part: str,
    breaking: Callable[..., Any],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    theirs: list[tuple[float, bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(likelihood, part, breaking(getattr(likelihood, part)))
    assert _largest_gap(_ours(model, tokenizer), theirs) > 100 * TOLERANCE


def test_documents_longer_than_the_context_equal_hflm(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = ["A man and his dog. " * n for n in (1, 7, 40)]
    theirs = _hflm(model, tokenizer, add_bos_token=False).loglikelihood_rolling(small.documents(texts))
    with evaluating(model, "float32"):
        ours = _scorer(model, tokenizer).loglikelihood_rolling(small.documents(texts))
    assert ours == pytest.approx(theirs, abs=TOLERANCE, rel=1e-6)


def test_text_that_spells_out_bos_is_not_led_by_two(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    with evaluating(model, "float32"):
        plain, spelled = _scorer(model, tokenizer).loglikelihood_rolling(
            small.documents(["a dog", f"{tokenizer.bos_token}a dog"])
        )
    assert plain == pytest.approx(spelled, abs=1e-6)


def test_raw_prefix_bos_leads_contexts_that_the_tokenizer_leaves_bare(
    model: Any, tokenizer: PreTrainedTokenizerBase
) -> None:
    bare, led = _scorer(model, tokenizer), _scorer(model, tokenizer, raw_prefix="bos")
    assert led.tok_encode("a dog") == [tokenizer.bos_token_id, *bare.tok_encode("a dog")]
    assert led.tok_encode(f"{tokenizer.bos_token}a dog") == led.tok_encode("a dog")


def test_continuation_longer_than_the_context_is_not_measured(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    scorer = _scorer(model, tokenizer)
    with evaluating(model, "float32"):
        results = scorer.loglikelihood(small.choices([{"query": "a", "choices": ["b c d " * 60, "dog"]}]))
    assert math.isnan(results[0][0])
    assert math.isfinite(results[1][0])
    assert scorer.too_long == {("mc", 0)}


# -- which models may share rows --------------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3, "head_dim": 8,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": 24},
    "gpt_neox": {"rotary_pct": 0.5},
}


def _random_model(model_type: str) -> Any:
    config = AutoConfig.for_model(model_type, **(SMALL | CHANGES.get(model_type, {})))
    with preserved_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def _requests() -> list[Request]:
    lengths = [(5, (1, 3, 2)), (17, (4, 1, 1, 6)), (1, (9, 9)), (30, (2, 40))]
    return [
        Request(_ids(context, 7, group), _ids(length, 5, place))
        for group, (context, continuations) in enumerate(lengths)
        for place, length in enumerate(continuations)
    ]


def _ids(count: int, stride: int, start: int) -> tuple[int, ...]:
    return tuple(3 + (stride * index + start) % 90 for index in range(count))


def _score(model: Any, batch_size: int = 8) -> list[Likelihood]:
    with evaluating(model, "float32"):
        return log_likelihoods(model, _requests(), batch_size=batch_size, max_length=256)


@pytest.mark.parametrize("model_type", sorted(likelihood.SHARING_MODELS))
def test_shared_rows_of_every_listed_model_equal_separate_ones(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _random_model(model_type)
    num_rows: list[int] = []
    score = likelihood._score

    def counted(model: Any, batch: list[Any]) -> Any:
        num_rows.append(len(batch))
        return score(model, batch)

    monkeypatch.setattr(likelihood, "_score", counted)
    shared = _score(model)
    num_shared, num_rows = sum(num_rows), []
    monkeypatch.setattr(likelihood, "SHARING_MODELS", frozenset())
    separate = _score(model, batch_size=1)

    assert num_shared < len(_requests()) - 3
    assert _largest_gap(list(shared), list(separate)) < TOLERANCE
    assert [one.is_greedy for one in shared] == [one.is_greedy for one in separate]


def test_rows_are_filled_with_sequences_that_share_nothing() -> None:
    """Sixty sequences of 9 to 14 tokens: separate rows of them are padded, filled ones hardly."""
    requests = [Request(_ids(2, 11, place), _ids(8 + place % 6, 5, place)) for place in range(60)]
    rows = likelihood._rows(requests, 256, likelihood.MAX_SHARED_TOKENS)
    num_tokens = sum(len(row.tokens) for row in rows)
    assert num_tokens <= sum(len(context + continuation) - 1 for context, continuation in requests)
    assert num_tokens > 0.9 * likelihood.ROW_TOKENS * (len(rows) - 1)
    assert max(len(row.tokens) for row in rows) <= likelihood.ROW_TOKENS


def test_row_grows_beyond_its_width_for_a_long_beginning_only() -> None:
    beginning = _ids(220, 7, 0)
    together = [Request(beginning, _ids(20, 5, place)) for place in range(4)]
    apart = [Request(_ids(220, 7, place), _ids(20, 5, place)) for place in range(4)]
    limit = likelihood.MAX_SHARED_TOKENS
    assert [len(row.tokens) for row in likelihood._rows(together, 512, limit)] == [220 + 4 * 19]
    assert [len(row.tokens) for row in likelihood._rows(apart, 512, limit)] == [239] * 4


def test_long_beginning_is_read_once_for_as_many_as_a_row_holds() -> None:
    """Solved examples before every question: longer than rows without them ever get."""
    beginning = _ids(700, 7, 0)
    asked = [Request(beginning, _ids(31, 5, place)) for place in range(60)]
    rows = likelihood._rows(asked, 1024, likelihood.LONGEST_SHARED_ROW)
    assert [len(row.targets) for row in rows] == [44, 16]
    assert [len(row.tokens) for row in rows] == [700 + 44 * 30, 700 + 16 * 30]
    assert all(len(row.tokens) <= likelihood.LONGEST_SHARED_ROW for row in rows)


def test_batches_hold_little_padding() -> None:
    rows = [row for length in (150, 149, 120, 60, 59, 9) for row in likelihood._rows([_long(length)], 256, 0)]
    batches = likelihood._batches(rows, 8, "cpu", 97)
    assert [[len(row.tokens) for row in batch] for batch in batches] == [[150, 149], [120], [60, 59], [9]]


def _long(num_tokens: int) -> Request:
    return Request(_ids(num_tokens, 5, 0), _ids(1, 5, 0))


def test_separate_rows_equal_a_plain_forward_pass() -> None:
    """The reference for all of the above, in a dozen lines of torch."""
    model = _random_model("llama")
    for request, result in zip(_requests(), _score(model), strict=True):
        ids = torch.tensor([request.context + request.continuation])
        with torch.no_grad():
            logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        picked = logprobs[len(request.context) - 1 :].gather(1, ids[0, len(request.context) :, None])
        assert result.logprob == pytest.approx(picked.sum().item(), abs=TOLERANCE)


def test_model_that_gives_no_numbers_is_not_measured() -> None:
    model = _random_model("llama")
    model.model.norm.weight.data.fill_(float("nan"))
    assert all(math.isnan(result.logprob) for result in _score(model))


# -- real weights -----------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(not small.REAL.is_dir(), reason="needs the real models and data beside the checkout")


@real
@pytest.mark.real
@pytest.mark.parametrize("name", ["stories260K", "stories15M", "minimind2-small"])
@pytest.mark.parametrize("file", ["eval/mc/arc_easy.jsonl", "eval/mc/hellaswag.jsonl", "eval/mc/blimp.jsonl"])
def test_real_items_on_real_bases_equal_hflm_at_any_batch_size(file: str, name: str) -> None:
    """Three vocabularies (512, 32 000 and 6 400 tokens), of which the last adds no BOS."""
    model, tokenizer = small.real_model(name)
    requests = small.choices(small.real_rows(file, 5))
    with evaluating(model, "float32"):
        ours = _scorer(model, tokenizer).loglikelihood(requests)
    for batch_size in (1, 7):
        theirs = _hflm(model, tokenizer, batch_size).loglikelihood(requests, disable_tqdm=True)
        # Beyond 100 nats 8 steps of float32: there HFLM at two batch sizes differs by half of TOLERANCE, too.
        expected = [pytest.approx(logprob, abs=TOLERANCE, rel=1e-6) for logprob, _ in theirs]
        assert [logprob for logprob, _ in ours] == expected
        assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


@real
@pytest.mark.real
def test_real_items_after_solved_ones_equal_hflm() -> None:
    """Ten solved items: some 800 tokens before each question, read once here."""
    model, tokenizer = small.real_model("minimind2-small")
    rows = small.real_rows("eval/mc/hellaswag.jsonl", 12)
    shots = "".join(f"{row['query']} {row['choices'][row['gold']]}\n\n" for row in rows[2:])
    requests = small.choices([row | {"query": shots + row["query"]} for row in rows[:2]])
    with evaluating(model, "float32"):
        scorer = Scorer(model, small.chat(tokenizer), small.evals(max_length=2048), batch_size=8)
        ours = scorer.loglikelihood(requests)
    theirs = _hflm(model, tokenizer, 2).loglikelihood(requests, disable_tqdm=True)
    expected = [pytest.approx(logprob, abs=TOLERANCE, rel=1e-6) for logprob, _ in theirs]
    assert [logprob for logprob, _ in ours] == expected
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


@real
@pytest.mark.real
def test_real_items_of_another_rounding_do_not_equal_hflm(monkeypatch: pytest.MonkeyPatch) -> None:
    """logsumexp is nearer to the truth than lm-eval's kernel, and so further from lm-eval than the tolerance."""
    model, tokenizer = small.real_model("stories15M")
    requests = small.choices(small.real_rows("eval/mc/hellaswag.jsonl", 5))
    theirs = _hflm(model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    monkeypatch.setattr(
        torch.Tensor, "log_softmax", lambda logits_NV, axis: logits_NV - logits_NV.logsumexp(axis, keepdim=True)
    )
    with evaluating(model, "float32"):
        ours = _scorer(model, tokenizer).loglikelihood(requests)
    assert _largest_gap(ours, theirs) > TOLERANCE


@real
@pytest.mark.real
def test_stories_with_bos_once_are_as_likely_as_published() -> None:
    """1.2 nats a token is what this base is known for; without BOS, or with BOS itself predicted, it is not reached."""
    model, tokenizer = small.real_model("stories260K")
    texts = [row["text"] for row in small.real_rows("lm/tinystories.test.jsonl", 20)]
    num_tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    theirs = _hflm(model, tokenizer, add_bos_token=False).loglikelihood_rolling(small.documents(texts))
    with evaluating(model, "float32"):
        ours = _scorer(model, tokenizer).loglikelihood_rolling(small.documents(texts))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert -sum(ours) / num_tokens == pytest.approx(1.2, abs=0.1)


@real
@pytest.mark.real
def test_chat_base_that_needs_bos_models_raw_text_with_it() -> None:
    """MiniMind2's tokenizer adds no BOS, and without it this base is worse than uniform (8.8 nats)."""
    model, tokenizer = small.real_model("minimind2-small")
    text = "The sun is a star, and the earth moves around it once a year."
    tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
    with evaluating(model, "float32"):
        (led,) = _scorer(model, tokenizer).loglikelihood_rolling(small.documents([text]))
        bare = log_likelihoods(model, [Request(tokens[:1], tokens[1:])], batch_size=1, max_length=512)[0].logprob
    assert -led / len(tokens) < 6
    assert -bare / (len(tokens) - 1) > 8.8
