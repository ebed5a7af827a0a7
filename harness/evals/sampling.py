"""Sampled answers whose chance is handed in: one uniform number a token.

Invariant: an answer depends on its prompt, its own numbers and the model alone, not on what shares its batch, so two
models that get the same numbers differ only where their distributions do. What does not live here: greedy answers
(generation.py).

Shapes: B rows of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import nn

from harness.evals.forward import selected_logits
from harness.evals.generation import Decoded, left_padded


def sampled_decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    draws: Sequence[Sequence[float]],
    *,
    stop_ids: Collection[int],
    has_ended: Callable[[list[int]], bool] | None = None,
    batch_size: int,
) -> list[Decoded]:
    """Return an answer to each prompt, sampled at temperature 1 from the whole distribution, in order.

    Args:
        model: a causal language model in eval mode, gradients off.
        prompts: non-empty token ids, each with room for its answer in the model's context.
        draws: for each prompt a number in [0, 1) for every token of the longest answer; all of one length.
        stop_ids: any of these ends an answer.
        has_ended: called with an answer so far, where no single token says that it ends.
        batch_size: prompts decoded together.
    """
    answers = [Decoded([], stopped=False, stop_id=None, is_finite=True) for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = [(prompts[index], draws[index], answers[index]) for index in chosen]
        _decode(model, rows, frozenset(stop_ids), has_ended)
    return answers


def _decode(
    model: nn.Module,
    rows: list[tuple[Sequence[int], Sequence[float], Decoded]],
    stop_ids: frozenset[int],
    has_ended: Callable[[list[int]], bool] | None,
) -> None:
    device = next(model.parameters()).device
    ids_BT, mask_BT = (tensor.to(device) for tensor in left_padded([prompt for prompt, _, _ in rows]))
    draws_BT = torch.tensor([list(draws) for _, draws, _ in rows], dtype=torch.float64, device=device)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    places_B = torch.arange(len(rows), device=device)
    cache = None
    for draws_B in draws_BT.T:
        last_B = torch.full_like(places_B, ids_BT.shape[1] - 1)
        inputs = {"attention_mask": mask_BT, "position_ids": positions_BT, "past_key_values": cache, "use_cache": True}
        logits_BV, cache = selected_logits(model, ids_BT, places_B, last_B, **inputs)
        next_B, finite_B = drawn(logits_BV, draws_B), logits_BV.max(-1).values.isfinite()
        for (_, _, answer), token, is_finite in zip(rows, next_B.tolist(), finite_B.tolist(), strict=True):
            answer.extend(token, is_finite, stop_ids, has_ended)
        if all(answer.stopped for _, _, answer in rows):
            return
        ids_BT, positions_BT = next_B[:, None], positions_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)


def drawn(logits_BV: torch.Tensor, draws_B: torch.Tensor) -> torch.Tensor:
    """Return the token at which the distribution function, over ids in order, first exceeds the number, int64 [B]."""
    cumulative_BV = logits_BV.double().softmax(-1).cumsum(-1)
    aims_B1 = (draws_B * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, aims_B1, right=True).squeeze(1).clamp(max=logits_BV.shape[1] - 1)
