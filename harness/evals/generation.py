"""Decoding many prompts at once, with a key-value cache: greedily, or as a caller chooses tokens.

Invariant: a prompt's answer does not depend on which prompts share its batch (left padding is masked and positions
start at 0). What does not live here: sampled tokens (sampling.py), prompts, texts, scores.

Shapes: B rows of a batch, T tokens of the longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from harness.evals.forward import selected_logits

Choose = Callable[[torch.Tensor, list[int], int], torch.Tensor]
"""(logits [B, V], which prompts these are of, number of the token from 0) -> tokens int64 [B]."""
HasEnded = Callable[[list[int]], bool]
"""Whether an answer so far has ended, by what its tokens say."""


@dataclass
class Decoded:
    """The tokens of one answer, without the stop token that ended it."""

    tokens: list[int]
    stopped: bool
    """Whether it ended by itself; False where the length limit ended it."""
    stop_id: int | None
    """The stop token that ended it; None where its text or the length limit did."""
    is_finite: bool
    """False where the model's logits were not, so that the tokens mean nothing."""

    def extend(self, token: int, is_finite: bool, stop_ids: frozenset[int], has_ended: HasEnded | None) -> None:
        """Take the next token in, unless the answer ended before; a stop token ends it and is no part of it."""
        if self.stopped:
            return
        self.is_finite &= is_finite
        self.stopped = token in stop_ids
        if self.stopped:
            self.stop_id = token
        else:
            self.tokens.append(token)
            self.stopped = has_ended is not None and has_ended(self.tokens)


def greedy_decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Collection[int],
    has_ended: HasEnded | None = None,
    max_new_tokens: int,
    batch_size: int,
) -> list[Decoded]:
    """Return the greedy answer to each prompt, in order; arguments as of `decode`."""
    return decode(
        model,
        prompts,
        likeliest,
        stop_ids=stop_ids,
        has_ended=has_ended,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )


def likeliest(logits_BV: torch.Tensor, _prompts: list[int], _step: int) -> torch.Tensor:
    """Return the likeliest tokens, of equal ones the first: what `greedy_decode` chooses."""
    return logits_BV.max(-1).indices


def decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    choose: Choose,
    *,
    stop_ids: Collection[int],
    has_ended: HasEnded | None,
    max_new_tokens: int,
    batch_size: int,
) -> list[Decoded]:
    """Return an answer to each prompt, in order.

    Args:
        model: a causal language model in eval mode, gradients off.
        prompts: non-empty token ids, each with room for `max_new_tokens` more in the model's context.
        choose: takes the next tokens.
        stop_ids: any of these ends an answer.
        has_ended: called with an answer so far, where no single token says that it ends.
        max_new_tokens: the longest answer.
        batch_size: prompts decoded together.
    """
    answers = [Decoded([], stopped=False, stop_id=None, is_finite=True) for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = [(index, answers[index]) for index in batch]
        _decode_batch(
            model, [prompts[index] for index in batch], rows, choose, frozenset(stop_ids), has_ended, max_new_tokens
        )
    return answers


def _decode_batch(
    model: nn.Module,
    prompts: list[Sequence[int]],
    rows: list[tuple[int, Decoded]],
    choose: Choose,
    stop_ids: frozenset[int],
    has_ended: HasEnded | None,
    max_new_tokens: int,
) -> None:
    """Extend the answers of a batch; `rows` has the number of each prompt and its answer."""
    device = next(model.parameters()).device
    ids_BT, mask_BT = (tensor.to(device) for tensor in left_padded(prompts))
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    cache = None
    for step in range(max_new_tokens):
        places_B = torch.arange(len(rows), device=device)
        last_B = torch.full_like(places_B, ids_BT.shape[1] - 1)
        inputs = {"attention_mask": mask_BT, "position_ids": positions_BT, "past_key_values": cache, "use_cache": True}
        logits_BV, cache = selected_logits(model, ids_BT, places_B, last_B, **inputs)
        next_B, finite_B = choose(logits_BV, [index for index, _ in rows], step), logits_BV.max(-1).values.isfinite()
        for (_, answer), token, is_finite in zip(rows, next_B.tolist(), finite_B.tolist(), strict=True):
            answer.extend(token, is_finite, stop_ids, has_ended)
        alive = [place for place, (_, answer) in enumerate(rows) if not answer.stopped]
        if not alive:
            return
        ids_BT, positions_BT = next_B[:, None], positions_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=1)
        if 2 * len(alive) <= len(rows):
            kept = torch.tensor(alive, device=device)
            cache.batch_select_indices(kept)
            ids_BT, positions_BT, mask_BT = ids_BT[kept], positions_BT[kept], mask_BT[kept]
            rows = [rows[place] for place in alive]


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask of prompts that end together, both int64 [B, T]."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    return ids, mask
