"""Log-likelihoods of continuations, each context computed once.

Several continuations of one context share a row: the context, then the continuations one after another, each seeing the
context and itself. Positions count on from the context in each, so every token gets the logits that it would get alone.

    row        c c c c | a a | b b b        (a continuation's last token is predicted, never read)
    position   0 1 2 3 | 4 5 | 4 5 6

Invariant: equal to one row per continuation up to floating-point order. Models whose attention is not known to honour
such a mask get one row per continuation. What does not live here: text.

Shapes: B rows, T positions, N positions whose logits are needed, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from harness.evals.forward import selected_logits

SHARING_MODELS = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "phi3", "olmo2", "smollm3"}
)
"""Model types whose rows may be shared: each is tested against separate rows."""

MAX_SHARED_TOKENS = 256
"""Length of a shared row: attention over it costs its square."""

MAX_TOKENS = {"cpu": 2**10, "cuda": 2**17}
"""Device -> padded tokens computed together, where `batch_size` allows more; on a CPU what its cache holds."""

MAX_LOGITS = {"cpu": 2**23, "cuda": 2**28}
"""Device -> logits held at once, 32 MiB and 1 GiB in float32; a single row may exceed it."""


class Request(NamedTuple):
    """One continuation of a non-empty context, in tokens. Requests of one group share a row where they can."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    group: object


class Likelihood(NamedTuple):
    """What lm-eval expects of a log-likelihood request: the natural-log probability, and whether greedy decoding
    would write the same continuation."""

    logprob: float
    is_greedy: bool


UNMEASURED = Likelihood(float("nan"), False)


@dataclass
class _Row:
    """One sequence of the batch and what is read off it."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    """0 for the context, else the number of the continuation."""
    columns: list[int] = field(default_factory=list)
    """Positions whose logits are needed, each once."""
    targets: list[tuple[int, list[int], list[int]]] = field(default_factory=list)
    """Request number, its tokens, and for each token the index into `columns` of the position that predicts it."""

    @property
    def is_shared(self) -> bool:
        return self.segments[-1] > 1


def log_likelihoods(
    model: nn.Module, requests: Sequence[Request], *, batch_size: int, max_length: int
) -> list[Likelihood]:
    """Return the likelihood of each request, in order; `UNMEASURED` for a continuation longer than `max_length`.

    A context that does not fit is cut on the left, as lm-eval does.

    Args:
        model: a causal language model in eval mode, gradients off.
        requests: contexts and continuations, none empty.
        batch_size: rows computed together.
        max_length: tokens the model reads at most.
    """
    results = [UNMEASURED] * len(requests)
    rows = sorted(_rows(requests, max_length, _share_limit(model)), key=lambda row: -len(row.tokens))
    # Apart, because our mask replaces the model's own, and with it the sliding window that longer rows need.
    for kind in ([row for row in rows if row.is_shared], [row for row in rows if not row.is_shared]):
        for batch in _batches(kind, batch_size, next(model.parameters()).device.type, _vocabulary(model)):
            for number, likelihood in _score(model, batch):
                results[number] = likelihood
    return results


def _share_limit(model: nn.Module) -> int:
    config = getattr(model, "config", None)
    if config is None or config.model_type not in SHARING_MODELS or config._attn_implementation != "sdpa":
        return 0
    # A sliding window counts storage distance: exact only while the whole row is inside it.
    return min(MAX_SHARED_TOKENS, getattr(config, "sliding_window", None) or MAX_SHARED_TOKENS)


def _vocabulary(model: nn.Module) -> int:
    return int(getattr(getattr(model, "config", None), "vocab_size", 0)) or 2**16


# -- rows -------------------------------------------------------------------------------------------------------------


def _rows(requests: Sequence[Request], max_length: int, share_limit: int) -> list[_Row]:
    rows: list[_Row] = []
    open_rows: dict[tuple[object, tuple[int, ...]], _Row] = {}
    for number, request in enumerate(requests):
        if not request.continuation or len(request.continuation) > max_length:
            continue
        context = request.context[-(max_length + 1 - len(request.continuation)) :]
        key = (request.group, context)
        row = open_rows.get(key)
        if row is None or not _fits(row, len(context), len(request.continuation) - 1, share_limit):
            row = _Row(list(context), list(range(len(context))), [0] * len(context))
            rows.append(row)
            open_rows[key] = row
        _add(row, number, request.continuation, len(context))
    return rows


def _fits(row: _Row, context_length: int, num_read: int, share_limit: int) -> bool:
    # A shared context shorter than this saves less than the wider attention costs.
    return num_read == 0 or (2 * context_length > num_read and len(row.tokens) + num_read <= share_limit)


def _add(row: _Row, number: int, continuation: tuple[int, ...], context_length: int) -> None:
    start, read = len(row.tokens), continuation[:-1]
    segment = row.segments[-1] + 1
    row.tokens.extend(read)
    row.positions.extend(range(context_length, context_length + len(read)))
    row.segments.extend([segment] * len(read))
    if not row.columns:
        row.columns.append(context_length - 1)
    predictors = [0, *range(len(row.columns), len(row.columns) + len(read))]
    row.columns.extend(range(start, start + len(read)))
    row.targets.append((number, list(continuation), predictors))


def _batches(rows: list[_Row], batch_size: int, device_type: str, vocabulary: int) -> Iterator[list[_Row]]:
    """Yield batches of rows that come longest first, so that the first row of a batch is its width."""
    max_tokens = MAX_TOKENS.get(device_type, MAX_TOKENS["cpu"])
    max_logits = MAX_LOGITS.get(device_type, MAX_LOGITS["cpu"])
    batch: list[_Row] = []
    num_logits = 0
    for row in rows:
        needed = len(row.columns) * vocabulary
        is_full = len(batch) >= min(batch_size, max_tokens // len(batch[0].tokens)) if batch else False
        if batch and (is_full or num_logits + needed > max_logits):
            yield batch
            batch, num_logits = [], 0
        batch.append(row)
        num_logits += needed
    if batch:
        yield batch


# -- one batch --------------------------------------------------------------------------------------------------------


def _score(model: nn.Module, batch: list[_Row]) -> Iterator[tuple[int, Likelihood]]:
    device = next(model.parameters()).device
    ids_BT = _padded([row.tokens for row in batch]).to(device)
    rows_N = torch.tensor([place for place, row in enumerate(batch) for _ in row.columns], device=device)
    columns_N = torch.tensor([column for row in batch for column in row.columns], device=device)
    logits_NV, _ = selected_logits(model, ids_BT, rows_N, columns_N, use_cache=False, **_attention(batch, device))

    sources, tokens = _flat_targets(batch)
    tokens_K, sources_K = torch.tensor(tokens, device=device), torch.tensor(sources, device=device)
    logprobs_K = logits_NV[sources_K, tokens_K] - logits_NV.logsumexp(-1)[sources_K]
    greedy_K = logits_NV.argmax(-1)[sources_K] == tokens_K
    yield from _per_request(batch, logprobs_K.double().cpu().numpy(), greedy_K.cpu().numpy())


def _flat_targets(batch: list[_Row]) -> tuple[list[int], list[int]]:
    sources: list[int] = []
    tokens: list[int] = []
    offset = 0
    for row in batch:
        for _, continuation, predictors in row.targets:
            sources.extend(offset + predictor for predictor in predictors)
            tokens.extend(continuation)
        offset += len(row.columns)
    return sources, tokens


def _per_request(batch: list[_Row], logprobs_K: np.ndarray, greedy_K: np.ndarray) -> Iterator[tuple[int, Likelihood]]:
    start = 0
    for row in batch:
        for number, continuation, _ in row.targets:
            end = start + len(continuation)
            yield number, Likelihood(float(logprobs_K[start:end].sum()), bool(greedy_K[start:end].all()))
            start = end


def _attention(batch: list[_Row], device: torch.device) -> dict[str, torch.Tensor]:
    """Return mask and positions for shared rows; nothing where the model's own causal mask and right padding do."""
    if not batch[0].is_shared:
        return {}
    segments_BT = _padded([row.segments for row in batch], fill=-1).to(device)
    width = segments_BT.shape[1]
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    visible_BTT = (same_BTT | (segments_BT == 0)[:, None, :]) & torch.ones(
        width, width, dtype=torch.bool, device=device
    ).tril()
    return {
        "attention_mask": visible_BTT[:, None],
        "position_ids": _padded([row.positions for row in batch]).to(device),
    }


def _padded(lists: list[list[int]], fill: int = 0) -> torch.Tensor:
    tensor = torch.full((len(lists), max(map(len, lists))), fill, dtype=torch.long)
    for place, values in enumerate(lists):
        tensor[place, : len(values)] = torch.tensor(values)
    return tensor
