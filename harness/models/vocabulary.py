"""Rows of a model for tokens that a tokenizer was given after the model was trained.

Invariant: without such tokens the model stays as it is; no random number is drawn. torch is imported when called. What
does not live here: which tokens are added (harness/data/markers.py), how their rows are trained (harness/methods).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.seeding import preserved_rng

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = 8192
"""Summed together in float64, so that no copy of a large matrix is made."""


def add_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, added: Sequence[int]) -> None:
    """Give added tokens their rows in embedding and output layer, and biases where that has them.

    Each is the mean of the rows of every token that the tokenizer had before. Many models have more rows than their
    tokenizer has tokens: an added token then takes an unused one, which is overwritten, and nothing grows. The output
    layer may be tied to the embedding or not, and other layers held in 4 bits.

    Args:
        model: as it was loaded; changed in place.
        tokenizer: with the added tokens.
        added: their ids; without any nothing is done.

    Source: Hewitt, "Initializing new word embeddings for pretrained language models", 2021,
        https://nlp.stanford.edu/~johnhew/vocab-expansion.html, without the noise proposed there.
    """
    if not added:
        return
    import torch

    grow(model, max(added) + 1)
    known = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(added)))
    for matrix in _by_token(model):
        matrix.data[list(added)] = _mean(matrix.data, known.to(matrix.device))


def grow(model: PreTrainedModel, num_rows: int) -> None:
    """Lengthen embedding and output layer to so many rows, where they are shorter; what those hold is the caller's."""
    embedding: Any = model.get_input_embeddings()
    if num_rows > len(embedding.weight):
        with preserved_rng():
            model.resize_token_embeddings(num_rows, mean_resizing=False)


def _by_token(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    """Yield what has a row for each token, tied weights once."""
    embedding: Any = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()
    yield embedding.weight
    if output is None:
        return
    if output.weight is not embedding.weight:
        yield output.weight
    if getattr(output, "bias", None) is not None:
        yield output.bias


def _mean(matrix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    import torch

    total = torch.zeros(matrix.shape[1:], dtype=torch.float64, device=matrix.device)
    for part in rows.split(ROWS):
        total += matrix[part].double().sum(0)
    return (total / len(rows)).to(matrix.dtype)
