"""Greedy decoding of many prompts at once, with a key-value cache.

Invariant: a prompt's answer does not depend on which prompts share its batch (left padding is masked and positions
start at 0). What does not live here: prompts, texts, scores.

Shapes: B rows of a batch, T tokens of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from harness.evals.forward import selected_logits


@dataclass(frozen=True)
class Decoded:
    """The tokens of one answer, without the one that ended it."""

    tokens: list[int]
    stop_token: int | None
    """The token that ended it; None where the length limit did."""
    is_finite: bool
    """False where the model's logits were not, so that the tokens mean nothing."""


def greedy_decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
    batch_size: int,
) -> list[Decoded]:
    """Return the greedy answer to each prompt, in order.

    Args:
        model: a causal language model in eval mode, gradients off.
        prompts: non-empty token ids, each with room for `max_new_tokens` more in the model's context.
        stop_ids: any of these ends an answer.
        max_new_tokens: the longest answer.
        batch_size: prompts decoded together.
    """
    answers: list[Decoded | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        decoded = _decode_batch(model, [prompts[index] for index in batch], frozenset(stop_ids), max_new_tokens)
        for index, answer in zip(batch, decoded, strict=True):
            answers[index] = answer
    return [answer for answer in answers if answer is not None]


def _decode_batch(
    model: nn.Module, prompts: list[Sequence[int]], stop_ids: frozenset[int], max_new_tokens: int
) -> list[Decoded]:
    device = next(model.parameters()).device
    ids_BT, mask_BT = (tensor.to(device) for tensor in _left_padded(prompts))
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    answers: list[list[int]] = [[] for _ in prompts]
    ended_by: list[int | None] = [None] * len(prompts)
    is_finite = [True] * len(prompts)
    rows = list(range(len(prompts)))  # the prompts that still are in the batch
    cache = None
    for _ in range(max_new_tokens):
        last = ids_BT.new_full((len(rows),), ids_BT.shape[1] - 1)
        logits_BV, cache = selected_logits(
            model, ids_BT, torch.arange(len(rows), device=device), last,
            attention_mask=mask_BT, position_ids=positions_BT, past_key_values=cache, use_cache=True,
        )  # fmt: skip
        best_B, next_ids = logits_BV.max(-1)
        for row, token, finite in zip(rows, next_ids.tolist(), best_B.isfinite().tolist(), strict=True):
            is_finite[row] &= finite
            if ended_by[row] is None and token in stop_ids:
                ended_by[row] = token
            elif ended_by[row] is None:
                answers[row].append(token)
        alive = [place for place, row in enumerate(rows) if ended_by[row] is None]
        if not alive:
            break
        ids_BT, positions_BT = next_ids[:, None], positions_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)
        if 2 * len(alive) <= len(rows):
            keep = torch.tensor(alive, device=device)
            cache.batch_select_indices(keep)
            ids_BT, positions_BT, mask_BT = ids_BT[keep], positions_BT[keep], mask_BT[keep]
            rows = [rows[place] for place in alive]
    return [Decoded(*parts) for parts in zip(answers, ended_by, is_finite, strict=True)]


def _left_padded(prompts: list[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    return ids, mask
