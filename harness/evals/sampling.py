"""Sampled answers whose chance is handed in: one uniform number a token.

Invariant: an answer depends on its prompt, its own numbers and the model alone, not on what shares its batch, so two
models that get the same numbers differ only where their distributions do. What does not live here: decoding
(generation.py).

Shapes: P prompts, T tokens of the longest answer, B rows of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import nn

from harness.evals.generation import Choose, Decoded, HasEnded, decode


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
    return decode(
        model,
        prompts,
        by_draws(draws, device=next(model.parameters()).device),
        stop_ids=stop_ids,
        has_ended=has_ended,
        max_new_tokens=len(draws[0]) if draws else 0,
        batch_size=batch_size,
    )


def by_draws(
    draws: Sequence[Sequence[float]] | np.ndarray, *, device: torch.device, temperature: float = 1.0
) -> Choose:
    """Return what takes the tokens that these numbers mean; arguments as of `sampled_decode` and `drawn`."""
    draws_PT = torch.tensor(np.asarray(draws, dtype=np.float64), device=device)
    return lambda logits_BV, chosen, step: drawn(logits_BV, draws_PT[chosen, step], temperature)


def drawn(logits_BV: torch.Tensor, draws_B: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the token at which the distribution function, over ids in order, first exceeds the number, int64 [B].

    Args:
        logits_BV: [B, V]; the distribution is the softmax of logits / temperature.
        draws_B: numbers in [0, 1), [B].
        temperature: above 0; towards 0 the likeliest token has all of the distribution.
    """
    scaled_BV = logits_BV.double()
    if temperature != 1.0:
        # From the largest down, so that no temperature takes the likeliest token to infinity.
        scaled_BV = (scaled_BV - scaled_BV.max(-1, keepdim=True).values) / temperature
    cumulative_BV = scaled_BV.softmax(-1).cumsum(-1)
    aims_B1 = (draws_B * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, aims_B1, right=True).squeeze(1).clamp(max=logits_BV.shape[1] - 1)
