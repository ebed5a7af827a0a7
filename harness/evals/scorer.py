"""Our language model for lm-eval: a model that is already loaded, scored fast, left as it was.

Special tokens, the one thing that silently ruins a score:
    raw text      the tokenizer's own behaviour (stories models get their `<s>`, SmolLM2 nothing), as lm-eval's HFLM;
                  with `raw_prefix="bos"` the tokenizer's BOS leads even where the tokenizer adds none (MiniMind2,
                  whose loss on raw text is worse than uniform without it)
    no context    the prefix token (BOS, else EOS) is what the first token is predicted from; so also for documents,
                  whose text is then encoded without special tokens: BOS once, and never itself predicted
    chat text     what the template wrote and nothing more: BOS is in the template or nowhere

Invariant: equal to HFLM per item (tested), for any batch size up to floating-point order. What does not live here:
forward passes (likelihood.py, generation.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import nn

from harness.errors import DataError
from harness.evals.generated import Generation
from harness.evals.generation import Choose, HasEnded, decode, likeliest
from harness.evals.likelihood import Likelihood, Request, log_likelihoods
from harness.evals.sampling import by_draws
from harness.models import Halvings
from harness.spec import EvalSpec

if TYPE_CHECKING:
    from harness.data import ChatFormat

T = TypeVar("T")
Tokens = tuple[int, ...]

TAIL_TOKENS = 24
"""How far back an answer is searched for a text that ends it."""


class Scorer(TemplateLM):
    """What lm-eval calls; see the module's docstring."""

    def __init__(
        self,
        model: nn.Module,
        chat: ChatFormat,
        spec: EvalSpec,
        *,
        batch_size: int,
        chat_tasks: Collection[str] = (),
        raw_tasks: Collection[str] = (),
        halvings: Halvings | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: a causal language model; its mode is the caller's business (`forward.evaluating`).
            chat: tokenizer, template and stop tokens.
            spec: `max_length` and `raw_prefix` are used.
            batch_size: rows computed together; moves no number beyond floating-point order.
            chat_tasks: keys of the tasks whose text the chat template rendered.
            raw_tasks: keys of the tasks whose answers are also kept with their special tokens.
            halvings: of `batch_size`, where memory runs out; None are this scorer's own.
        """
        super().__init__()
        self.model = model
        self.chat = chat
        self.tokenizer: Any = chat.tokenizer
        self.max_length = min(spec.max_length, _context_of(model))
        self.raw_prefix = spec.raw_prefix
        self.batch_size = batch_size
        self.halvings = Halvings() if halvings is None else halvings
        self.chat_tasks = frozenset(chat_tasks)
        self.raw_tasks = frozenset(raw_tasks)
        self.too_long: set[tuple[str | None, int | None]] = set()
        """(task, document number) with a continuation that the context cannot hold: not measured."""
        self.cut: set[tuple[str | None, int | None]] = set()
        """(task, document number) whose context was cut on the left."""
        self._tokens: dict[tuple[str, str], Tokens] = {}

    @property
    def eot_token_id(self) -> int:
        """Return the tokenizer's EOS."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Return what the first token of a text without context is predicted from.

        Raises:
            DataError: the tokenizer has neither BOS nor EOS.
        """
        token = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.eot_token_id
        if token is None:
            raise DataError("the base's tokenizer has neither a BOS nor an EOS token, but text needs one to start from")
        return token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the tokens of raw text."""
        return list(self._encode_raw([string], add_special_tokens=add_special_tokens is not False)[0])

    # -- lm-eval's three requests -------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of each (context, continuation)."""
        pairs = self._encode_pairs(requests)
        for request, (context, continuation) in zip(requests, pairs, strict=True):
            self._note_length(request, len(context), len(continuation))
        return list(self._likelihoods([Request(*pair) for pair in pairs]))

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        encoded = [Request(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        return list(self._likelihoods(encoded))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each whole text, in windows that predict every token once."""
        texts = [request.args[0] for request in requests]
        windows: list[Request] = []
        owners: list[int] = []
        for number, tokens in enumerate(self._encode_raw(texts, add_special_tokens=False)):
            body = list(tokens[1:] if tokens[:1] == (self.prefix_token_id,) else tokens)
            rolling = get_rolling_token_windows(
                token_list=body, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            for context, continuation in map(make_disjoint_window, rolling):
                windows.append(Request(tuple(context), tuple(continuation)))
                owners.append(number)
        totals = [0.0] * len(texts)
        for owner, likelihood in zip(owners, self._likelihoods(windows), strict=True):
            totals[owner] += likelihood.logprob
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return each greedy answer as a `Generation`; requests are grouped by their settings."""
        answers: list[str] = [""] * len(requests)
        groups: dict[tuple[bool, bool, tuple[str, ...], int], list[int]] = {}
        for number, request in enumerate(requests):
            _, settings = cast("tuple[str, dict[str, Any]]", request.args)
            is_chat = self._is_chat(request)
            until = (*settings["until"], *(self.turn_ends if is_chat else ()))
            with_raw = request.task_name in self.raw_tasks
            groups.setdefault((is_chat, with_raw, until, settings["max_gen_toks"]), []).append(number)
        for (is_chat, with_raw, until, max_new_tokens), numbers in groups.items():
            texts = [requests[number].args[0] for number in numbers]
            prompts = self._encode_prompts(texts, is_chat=is_chat)
            for number, prompt in zip(numbers, prompts, strict=True):
                self._note_length(requests[number], len(prompt) - 1, max_new_tokens)
            decoded = self.answer(prompts, until, max_new_tokens, is_chat=is_chat, with_raw=with_raw)
            for number, answer in zip(numbers, decoded, strict=True):
                answers[number] = answer
        return answers

    def answer(
        self,
        prompts: Sequence[Tokens],
        until: Sequence[str],
        max_new_tokens: int,
        *,
        is_chat: bool,
        with_raw: bool = False,
        choose: Choose = likeliest,
    ) -> list[Generation]:
        """Return the answer to each prompt, greedy unless `choose` is given, cut before the first of `until`.

        with_raw also keeps each answer uncut with its special tokens, but for the one that ended it.

        A prompt is cut on the left where it leaves no room for the answer. In chat an answer counts as stopped only
        by what ends a turn: a base that ends its document there has not taken a turn.

        Raises:
            DataError: the context has no room for any prompt.
        """
        room = self.max_length - max_new_tokens
        if room < 1:
            raise DataError(
                f"evals.tasks.max_new_tokens is {max_new_tokens}, but must be below the context, "
                f"which is {self.max_length} tokens here"
            )

        decoded = self.in_what_fits(
            lambda num_rows: decode(
                self.model,
                [prompt[-room:] for prompt in prompts],
                choose,
                stop_ids=self.chat.stop_token_ids,
                has_ended=self.has_ended(until),
                max_new_tokens=max_new_tokens,
                batch_size=num_rows,
            ),
            len(prompts),
        )
        texts = [self.tokenizer.decode(answer.tokens, skip_special_tokens=True) for answer in decoded]
        raws = [self.tokenizer.decode(answer.tokens) for answer in decoded] if with_raw else [None] * len(decoded)
        ends = self.chat.turn_token_ids if is_chat else self.chat.stop_token_ids
        return [
            Generation(
                _before(text, until),
                stopped=answer.stopped and (answer.stop_id is None or answer.stop_id in ends),
                is_finite=answer.is_finite,
                raw=raw,
                num_tokens=len(answer.tokens),
                hit_limit=not answer.stopped,
            )
            for text, raw, answer in zip(texts, raws, decoded, strict=True)
        ]

    def sampled_answers(
        self,
        texts: Sequence[str],
        draws: np.ndarray,
        until: Sequence[str],
        *,
        temperature: float,
        is_chat: bool,
    ) -> list[Generation]:
        """Return a sampled answer to each text, asked and ended as `generate_until` does.

        Args:
            texts: prompts as documents hold them.
            draws: a number in [0, 1) for each text and token of its longest answer, float64 [texts, tokens].
            until: strings that end an answer, besides what ends a turn in chat.
            temperature: above 0.
            is_chat: whether the template rendered the texts.

        Raises:
            DataError: see `answer`.
        """
        return self.answer(
            self._encode_prompts(texts, is_chat=is_chat),
            (*until, *(self.turn_ends if is_chat else ())),
            draws.shape[1],
            is_chat=is_chat,
            choose=by_draws(draws, device=next(self.model.parameters()).device, temperature=temperature),
        )

    def has_ended(self, until: Sequence[str]) -> HasEnded | None:
        """Return what finds any of these strings at the end of an answer so far; None where there is none to find."""
        if not until:
            return None

        def ended(tokens: list[int]) -> bool:
            text = self.tokenizer.decode(tokens[-TAIL_TOKENS:])
            return any(end in text for end in until)

        return ended

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """Return the text that ends a turn in chat where the tokenizer has no token of its own for it."""
        return self.chat.turn_ends

    # -- tokens -------------------------------------------------------------------------------------------------------

    def _is_chat(self, request: Instance) -> bool:
        return request.task_name in self.chat_tasks

    def _once(self, kind: str, texts: Sequence[str], encode: Callable[[list[str]], list[Tokens]]) -> list[Tokens]:
        """Return the tokens of each text; what this scorer has encoded before is not encoded again."""
        new = [text for text in dict.fromkeys(texts) if (kind, text) not in self._tokens]
        if new:
            self._tokens.update(zip(((kind, text) for text in new), encode(new), strict=True))
        return [self._tokens[kind, text] for text in texts]

    def _encode_prompts(self, texts: Sequence[str], *, is_chat: bool) -> list[Tokens]:
        return self._encode_chat(texts) if is_chat else self._encode_raw(texts)

    def _encode_chat(self, texts: Sequence[str]) -> list[Tokens]:
        return self._once("chat", texts, lambda new: [tuple(encoded.ids) for encoded in self.chat.encode_batch(new)])

    def _encode_raw(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[Tokens]:
        kind = "raw" if add_special_tokens else "bare"
        return self._once(kind, texts, lambda new: self._tokenised(new, add_special_tokens=add_special_tokens))

    def _tokenised(self, texts: list[str], *, add_special_tokens: bool) -> list[Tokens]:
        # verbose: long documents are cut into windows below, so a warning about their length would be wrong.
        bare = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        bare = [tuple(tokens) for tokens in bare]
        if not add_special_tokens:
            return bare
        # As lm-eval: text that spells out the prefix token does not get another one.
        spelled = self.tokenizer.decode([self.prefix_token_id])
        whole = [tuple(tokens) for tokens in self.tokenizer(texts, verbose=False)["input_ids"]]
        chosen = [b if text.startswith(spelled) else w for text, b, w in zip(texts, bare, whole, strict=True)]
        return [self._led(tokens) for tokens in chosen]

    def _led(self, tokens: Tokens) -> Tokens:
        bos = self.tokenizer.bos_token_id
        if self.raw_prefix != "bos" or bos is None or tokens[:1] == (bos,):
            return tokens
        return (int(bos), *tokens)

    def _encode_pairs(self, requests: Sequence[Instance]) -> list[tuple[Tokens, Tokens]]:
        pairs: list[tuple[Tokens, Tokens]] = [((), ())] * len(requests)
        chat = [number for number, request in enumerate(requests) if self._is_chat(request)]
        bare = [number for number, request in enumerate(requests) if not request.args[0].strip()]
        bare = sorted(set(bare) - set(chat))
        raw = sorted(set(range(len(requests))) - set(chat) - set(bare))
        for numbers, encode in (
            (chat, self._pairs_in_chat),
            (bare, self._pairs_without_context),
            (raw, self._pairs_raw),
        ):
            encoded = encode([cast("tuple[str, str]", requests[number].args) for number in numbers])
            for number, pair in zip(numbers, encoded, strict=True):
                pairs[number] = pair
        return pairs

    def _pairs_in_chat(self, texts: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
        """Split the tokens of the whole text where they leave those of the prompt: training saw the whole's tokens."""
        prompts = self._encode_chat([context for context, _ in texts])
        wholes = self._encode_chat([context + continuation for context, continuation in texts])
        pairs = []
        for prompt, whole in zip(prompts, wholes, strict=True):
            shared = _common_length(prompt, whole)
            pairs.append((whole[:shared], whole[shared:]))
        return pairs

    def _pairs_without_context(self, texts: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
        prefix = (self.prefix_token_id,) if texts else ()
        encoded = self._encode_raw(
            [context + continuation for context, continuation in texts], add_special_tokens=False
        )
        return [(prefix, tokens[1:] if tokens[:1] == prefix else tokens) for tokens in encoded]

    def _pairs_raw(self, texts: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
        """Split as lm-eval does: white space at the context's end belongs to the continuation, then by length.

        Source: `TemplateLM._encode_pair` of lm-eval 0.4.13, here for all requests in one call of the tokenizer.
        """
        contexts = self._encode_raw([context.rstrip() for context, _ in texts])
        wholes = self._encode_raw([context + continuation for context, continuation in texts])
        return [(context, whole[len(context) :]) for context, whole in zip(contexts, wholes, strict=True)]

    # -- model --------------------------------------------------------------------------------------------------------

    def _likelihoods(self, requests: Sequence[Request]) -> list[Likelihood]:
        return self.in_what_fits(
            lambda num_rows: log_likelihoods(
                self.model,
                requests,
                batch_size=num_rows,
                max_length=self.max_length,
                num_halvings=self.halvings.count,
            ),
            len(requests),
        )

    def in_what_fits(self, compute: Callable[[int], T], num_rows: int) -> T:
        """Return what a computation over so many rows gives; it gets how many to compute together.

        Raises:
            TooLittleMemoryError: they do not fit in memory, however few are computed together.
        """
        return self.halvings.in_what_fits(compute, self.batch_size, num_rows)

    def _note_length(self, request: Instance, context_length: int, continuation_length: int) -> None:
        where = (request.task_name, request.doc_id)
        if continuation_length > self.max_length:
            self.too_long.add(where)
        elif context_length + continuation_length - 1 > self.max_length:
            self.cut.add(where)


def _context_of(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    return int(getattr(config, "max_position_embeddings", None) or 2**31)


def _common_length(first: Tokens, second: Tokens) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _before(text: str, ends: Sequence[str]) -> str:
    for end in ends:
        text = text.partition(end)[0]
    return text
