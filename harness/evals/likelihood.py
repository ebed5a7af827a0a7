"""Log-likelihoods of continuations, each common beginning computed once.

Sequences that begin alike share a row as the branches of a tree, written depth first; a token sees its ancestors and
itself, and its position is its depth, so it gets the logits that it would get alone. Choices share their context so,
minimal pairs and schemas the part before they differ; rows are filled up with trees that have nothing in common.

    sequences   c c c a a x | c c c a b y        (the last token of a continuation is predicted, never read)
    row         c c c a a b
    position    0 1 2 3 4 4
    end         6 6 6 6 5 6                      (where a token's descendants end: i sees j if j <= i < end of j)

Invariant: equal to one row per sequence up to floating-point order. Models whose attention is not known to honour such
a mask get one row per sequence. What does not live here: text.

Shapes: B rows, T positions, N positions whose logits are needed, K predicted tokens, V vocabulary.
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

ROW_TOKENS = 192
"""Length up to which a row is filled with sequences, whether they begin alike or not: hardly any padding is left."""

MAX_SHARED_TOKENS = 512
"""Length up to which a row grows while the beginnings it saves are worth the wider attention."""

TIMES_THE_BEGINNING = 3
"""Likewise, in lengths of a longer beginning: solved examples before every question are read once for many of them."""

LONGEST_SHARED_ROW = 2048
"""What a shared row never exceeds: its mask has a bit for every pair of positions."""

PAIRS_PER_TOKEN = 400
"""Pairs of positions whose attention costs as much as everything else about a token, in the smallest bases."""

MAX_TOKENS = {"cpu": 2**10, "cuda": 2**17}
"""Device -> padded tokens computed together, where `batch_size` allows more; on a CPU what its cache holds."""

MAX_LOGITS = {"cpu": 2**23, "cuda": 2**28}
"""Device -> logits held at once, 32 MiB and 1 GiB in float32; a single row may exceed it."""


class Request(NamedTuple):
    """One continuation of a non-empty context, in tokens."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """What lm-eval expects of a log-likelihood request: the natural-log probability, and whether greedy decoding
    would write the same continuation."""

    logprob: float
    is_greedy: bool


UNMEASURED = Likelihood(float("nan"), False)


OPEN = 2**30
"""The end of a token's descendants while more may come."""


@dataclass
class _Row:
    """Trees of sequences, and what is read off them."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    """Where the tokens of the latest sequence stand."""
    columns: dict[int, int] = field(default_factory=dict)
    """Place whose logits are needed -> its number among them."""
    targets: list[tuple[int, tuple[int, ...], list[int]]] = field(default_factory=list)
    """Request number, its tokens, and for each the number of the column that predicts it."""
    is_shared: bool = False
    """Whether there is more than one branch."""

    def common_length(self, sequence: tuple[int, ...]) -> int:
        """Return how many tokens a sequence has in common with the latest one."""
        pairs = enumerate(zip(self.path, sequence, strict=False))
        return next((i for i, (place, t) in pairs if self.tokens[place] != t), min(len(self.path), len(sequence)))

    def add(self, number: int, sequence: tuple[int, ...], continuation: tuple[int, ...]) -> None:
        """Add a sequence that is not smaller than the latest one, and read its continuation's tokens off it."""
        common, start = self.common_length(sequence), len(self.tokens)
        self.is_shared |= common < min(len(self.path), len(sequence))
        for place in self.path[common:]:
            self.ends[place] = start
        self.tokens.extend(sequence[common:])
        self.positions.extend(range(common, len(sequence)))
        self.ends.extend([OPEN] * (len(sequence) - common))
        self.path = self.path[:common] + list(range(start, len(self.tokens)))
        predictors = self.path[len(sequence) - len(continuation) :]
        columns = [self.columns.setdefault(place, len(self.columns)) for place in predictors]
        self.targets.append((number, continuation, columns))


def log_likelihoods(
    model: nn.Module, requests: Sequence[Request], *, batch_size: int, max_length: int, num_halvings: int = 0
) -> list[Likelihood]:
    """Return the likelihood of each request, in order; `UNMEASURED` for a continuation longer than `max_length`.

    A context that does not fit is cut on the left, as lm-eval does.

    Args:
        model: a causal language model in eval mode, gradients off.
        requests: contexts and continuations, none empty.
        batch_size: rows computed together.
        max_length: tokens the model reads at most.
        num_halvings: of the tokens and logits held at once, where memory ran out.
    """
    results = [UNMEASURED] * len(requests)
    rows = sorted(_rows(requests, max_length, _share_limit(model)), key=lambda row: -len(row.tokens))
    # Apart, because our mask replaces the model's own, and with it the sliding window that longer rows need.
    for kind in ([row for row in rows if row.is_shared], [row for row in rows if not row.is_shared]):
        device_type = next(model.parameters()).device.type
        for batch in _batches(kind, batch_size, device_type, _vocabulary(model), num_halvings):
            for number, likelihood in _score(model, batch):
                results[number] = likelihood
    return results


def _share_limit(model: nn.Module) -> int:
    config = getattr(model, "config", None)
    if config is None or config.model_type not in SHARING_MODELS or config._attn_implementation != "sdpa":
        return 0
    # A sliding window counts storage distance: exact only while the whole row is inside it.
    return min(LONGEST_SHARED_ROW, getattr(config, "sliding_window", None) or LONGEST_SHARED_ROW)


def _vocabulary(model: nn.Module) -> int:
    return int(getattr(getattr(model, "config", None), "vocab_size", 0)) or 2**16


# -- rows -------------------------------------------------------------------------------------------------------------


def _rows(requests: Sequence[Request], max_length: int, share_limit: int) -> list[_Row]:
    sequences = sorted(
        ((request.context + request.continuation)[-(max_length + 1) : -1], number)
        for number, request in enumerate(requests)
        if 0 < len(request.continuation) <= max_length
    )
    rows: list[_Row] = []
    for sequence, number in sequences:
        if not rows or not _fits(rows[-1], sequence, share_limit):
            rows.append(_Row())
        rows[-1].add(number, sequence, requests[number].continuation)
    return rows


def _fits(row: _Row, sequence: tuple[int, ...], share_limit: int) -> bool:
    common, old = row.common_length(sequence), len(row.tokens)
    new = len(sequence) - common
    # Apart, the common beginning is computed again; together, old and new tokens see more of each other's columns.
    is_worth = common * (PAIRS_PER_TOKEN + common + 2 * new) > 2 * old * new
    length = max(MAX_SHARED_TOKENS, TIMES_THE_BEGINNING * common) if is_worth else ROW_TOKENS
    return new == 0 or old + new <= min(share_limit, length)


def _batches(
    rows: list[_Row], batch_size: int, device_type: str, vocabulary: int, num_halvings: int = 0
) -> Iterator[list[_Row]]:
    """Yield batches of rows that come longest first, so that the first row of a batch is its width."""
    max_tokens = MAX_TOKENS.get(device_type, MAX_TOKENS["cpu"]) >> num_halvings
    max_logits = MAX_LOGITS.get(device_type, MAX_LOGITS["cpu"]) >> num_halvings
    batch: list[_Row] = []
    num_logits = 0
    for row in rows:
        needed = len(row.columns) * vocabulary
        width = len(batch[0].tokens) if batch else 0
        is_full = batch and len(batch) >= min(batch_size, max_tokens // width)
        is_narrow = 8 * len(row.tokens) < 7 * width  # padding costs as much as tokens
        if batch and (is_full or is_narrow or num_logits + needed > max_logits):
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
    # Not logsumexp: that is slower than the matrix product before it, and lm-eval's own rounding is this kernel's.
    logprobs_NV = logits_NV.log_softmax(-1)
    logprobs_K = logprobs_NV[sources_K, tokens_K]
    greedy_K = logprobs_NV.argmax(-1)[sources_K] == tokens_K
    yield from _per_request(batch, logprobs_K.double().cpu().numpy(), greedy_K.cpu().numpy())


def _flat_targets(batch: list[_Row]) -> tuple[list[int], list[int]]:
    sources: list[int] = []
    tokens: list[int] = []
    offset = 0
    for row in batch:
        for _, continuation, columns in row.targets:
            sources.extend(offset + column for column in columns)
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
    ends_BT = _padded([row.ends for row in batch]).to(device)
    places_T = torch.arange(ends_BT.shape[1], device=device)
    is_before_TT = places_T[None, :] <= places_T[:, None]
    sees_BTT = is_before_TT & (places_T[:, None] < ends_BT[:, None, :])
    # Padding sees itself: a row of the mask without any True gives nan.
    sees_BTT |= torch.eye(len(places_T), dtype=torch.bool, device=device)
    return {
        "attention_mask": sees_BTT[:, None],
        "position_ids": _padded([row.positions for row in batch]).to(device),
    }


def _padded(lists: list[list[int]], fill: int = 0) -> torch.Tensor:
    tensor = torch.full((len(lists), max(map(len, lists))), fill, dtype=torch.long)
    for place, values in enumerate(lists):
        tensor[place, : len(values)] = torch.tensor(values)
    return tensor
