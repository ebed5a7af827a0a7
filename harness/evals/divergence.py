"""How far two models' next-token distributions lie apart, at every predicted token of given texts.

Invariant: distributions are softmaxes in float32 of whole rows of logits, whatever dtype the models compute in, and
equal logits give exactly 0. Of a large vocabulary, log-probabilities are held a slice at a time. What does not live
here: which texts (drift_texts.py), means over them (drift.py).

Shapes: B rows, T positions, N predicted tokens, V vocabulary, C columns of a slice of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from harness.evals.drift_texts import DriftText
from harness.evals.forward import selected_logits
from harness.evals.likelihood import MAX_TOKENS
from harness.evals.model_pair import ModelPair

COLUMNS = 8192
"""C: log-probabilities of both models are held for this many tokens of the vocabulary at once."""

MAX_LOGITS = {"cpu": 2**24, "cuda": 2**28}
"""Device -> logits of one model held at once, 64 MiB and 1 GiB in float32; a longer text is read several times."""

MEASURES = (
    "kl_base_tuned", "kl_tuned_base", "entropy_base", "entropy_tuned", "argmax_loss", "argmax_loss_base", "rank_base",
)  # fmt: skip
"""What `compared` says of each predicted token."""


def of_texts(
    pair: ModelPair, texts: Sequence[DriftText], *, batch_size: int, num_halvings: int = 0
) -> list[dict[str, np.ndarray]]:
    """Return for each text the `MEASURES` of each of its predicted tokens, float64 [number of places].

    Args:
        pair: both in eval mode, gradients off.
        texts: with at least one place each.
        batch_size: texts computed together.
        num_halvings: of the tokens and logits held at once, where memory ran out.
    """
    found: list[dict[str, np.ndarray]] = [{} for _ in texts]
    device = next(pair.tuned.parameters()).device.type
    max_places = max(1, (MAX_LOGITS.get(device, MAX_LOGITS["cpu"]) >> num_halvings) // _vocabulary(pair))
    max_tokens = MAX_TOKENS.get(device, MAX_TOKENS["cpu"]) >> num_halvings
    for batch in _batches(texts, batch_size, max_places, max_tokens):
        values = _compared_batch(pair, [(texts[number], places) for number, places in batch])
        start = 0
        for number, places in batch:
            for measure, values_N in values.items():
                old = found[number].get(measure, np.empty(0))
                found[number][measure] = np.concatenate([old, values_N[start : start + len(places)]])
            start += len(places)
    return found


def _vocabulary(pair: ModelPair) -> int:
    return int(getattr(getattr(pair.tuned, "config", None), "vocab_size", 0)) or 2**16


def _batches(
    texts: Sequence[DriftText], batch_size: int, max_places: int, max_tokens: int
) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
    """Yield batches of (number of a text, places of it), the longest texts first: at most `max_places` places and, with
    padding, `max_tokens` tokens, where a single text does not exceed them."""
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number].input_ids))
    pieces = [
        (number, texts[number].places[start : start + max_places])
        for number in order
        for start in range(0, len(texts[number].places), max_places)
    ]
    batch: list[tuple[int, tuple[int, ...]]] = []
    for piece in pieces:
        width = len(texts[batch[0][0]].input_ids) if batch else 0
        is_full = len(batch) >= min(batch_size, max_tokens // max(1, width))
        if batch and (is_full or sum(len(places) for _, places in [*batch, piece]) > max_places):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _compared_batch(pair: ModelPair, batch: Sequence[tuple[DriftText, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    width = max(len(text.input_ids) for text, _ in batch)
    ids_BT = torch.tensor([[*text.input_ids, *[0] * (width - len(text.input_ids))] for text, _ in batch])
    rows_N = torch.tensor([row for row, (_, places) in enumerate(batch) for _ in places])
    places_N = torch.tensor([place for _, places in batch for place in places])
    tuned_NV = _logits(pair.tuned, ids_BT, rows_N, places_N - 1)
    with pair.as_base() as base:
        base_NV = _logits(base, ids_BT, rows_N, places_N - 1).to(tuned_NV.device)
    tokens_N = ids_BT[rows_N, places_N].to(tuned_NV.device)
    return {name: values_N.cpu().numpy() for name, values_N in compared(base_NV, tuned_NV, tokens_N).items()}


def _logits(
    model: torch.nn.Module, ids_BT: torch.Tensor, rows_N: torch.Tensor, columns_N: torch.Tensor
) -> torch.Tensor:
    # Padding on the right is never seen from the left of it, so no mask is needed.
    device = next(model.parameters()).device
    return selected_logits(model, ids_BT.to(device), rows_N.to(device), columns_N.to(device), use_cache=False)[0]


def compared(base_NV: torch.Tensor, tuned_NV: torch.Tensor, tokens_N: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what is said of each position, float64 [N] each, in nats; p is the base's distribution, q the tuned one's.

    - `kl_base_tuned` = sum p ln(p / q), `kl_tuned_base` = sum q ln(q / p); at least 0 up to rounding.
    - `entropy_base` = -sum p ln p, `entropy_tuned` likewise.
    - `argmax_loss` = -ln q(arg max p), `argmax_loss_base` = -ln max p: what L_f is where nothing has changed.
    - `rank_base`: 1 + the number of tokens that the base finds likelier than the one that stands in the text.

    Args:
        base_NV: the base's logits, float32.
        tuned_NV: the tuned model's, float32.
        tokens_N: the tokens that stand there, int64.
    """
    base_sum_N, tuned_sum_N = _log_sum(base_NV), _log_sum(tuned_NV)
    best_N = base_NV.argmax(-1, keepdim=True)
    said_N1 = base_NV.gather(1, tokens_N[:, None])
    found = {
        "argmax_loss": tuned_sum_N.double() - tuned_NV.gather(1, best_N).squeeze(1).double(),
        "argmax_loss_base": base_sum_N.double() - base_NV.gather(1, best_N).squeeze(1).double(),
        "rank_base": 1.0 + (base_NV > said_N1).sum(-1).double(),
    }
    sums = {name: torch.zeros(len(base_NV), dtype=torch.float64, device=base_NV.device) for name in MEASURES[:4]}
    for base_NC, tuned_NC in zip(base_NV.split(COLUMNS, -1), tuned_NV.split(COLUMNS, -1), strict=True):
        log_p_NC, log_q_NC = base_NC - base_sum_N[:, None], tuned_NC - tuned_sum_N[:, None]
        sums["kl_base_tuned"] += _expected(log_p_NC, log_p_NC - log_q_NC)
        sums["kl_tuned_base"] += _expected(log_q_NC, log_q_NC - log_p_NC)
        sums["entropy_base"] -= _expected(log_p_NC, log_p_NC)
        sums["entropy_tuned"] -= _expected(log_q_NC, log_q_NC)
    return {name: (sums | found)[name] for name in MEASURES}


def _log_sum(logits_NV: torch.Tensor) -> torch.Tensor:
    parts = [logits_NC.logsumexp(-1) for logits_NC in logits_NV.split(COLUMNS, -1)]
    return torch.stack(parts).logsumexp(0)


def _expected(log_p_NC: torch.Tensor, values_NC: torch.Tensor) -> torch.Tensor:
    # A token that cannot come adds nothing, though its logarithm is infinite.
    p_NC = log_p_NC.exp()
    return torch.where(p_NC > 0, p_NC * values_NC, p_NC).sum(-1, dtype=torch.float64)
