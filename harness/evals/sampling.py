"""Sampled answers whose chance is handed in: one uniform number a token.

Invariant: an answer depends on its prompt, its own numbers and the model alone, not on what shares its batch, so two
models that get the same numbers differ only where their distributions do. What does not live here: decoding
(generation.py).

Shapes: P prompts, T tokens of the longest answer, B rows of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import nn

from harness.evals.generation import Decoded, HasEnded, decode


def sampled_decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    draws: Sequence[Sequence[float]],
    *,
    stop_ids: Collection[int],
    has_ended: HasEnded | None = None,
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
    draws_PT = torch.tensor(
        [list(numbers) for numbers in draws], dtype=torch.float64, device=next(model.parameters()).device
    )
    return decode(
        model,
        prompts,
        lambda logits_BV, chosen, step: drawn(logits_BV, draws_PT[chosen, step]),
        stop_ids=stop_ids,
        has_ended=has_ended,
        max_new_tokens=len(draws[0]) if draws else 0,
        batch_size=batch_size,
    )


def drawn(logits_BV: torch.Tensor, draws_B: torch.Tensor) -> torch.Tensor:
    """Return the token at which the distribution function, over ids in order, first exceeds the number, int64 [B]."""
    cumulative_BV = logits_BV.double().softmax(-1).cumsum(-1)
    aims_B1 = (draws_B * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, aims_B1, right=True).squeeze(1).clamp(max=logits_BV.shape[1] - 1)
