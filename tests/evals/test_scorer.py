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


def _hflm(model: Any, tokenizer: PreTrainedTokenizerBase, **settings: Any) -> HFLM:
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, device="cpu", **settings)


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
@pytest.mark.parametrize("file", ["eval/mc/arc_easy.jsonl", "eval/mc/piqa.jsonl", "eval/mc/blimp.jsonl"])
def test_real_items_on_a_real_base_equal_hflm(file: str) -> None:
    model, tokenizer = small.real_model("stories260K")
    requests = small.choices(small.real_rows(file, 20))
    theirs = _hflm(model, tokenizer).loglikelihood(requests, disable_tqdm=True)
    with evaluating(model, "float32"):
        ours = _scorer(model, tokenizer).loglikelihood(requests)
    assert _largest_gap(ours, theirs) < TOLERANCE


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
