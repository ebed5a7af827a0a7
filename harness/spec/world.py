"""The spec of the embedded laboratory: a world of people and skills, and the base model pretrained on it.

Invariant: a `WorldSpec` determines every byte of corpus, tokenizer, instruction data and evaluation items; with the
pretraining fields it determines the base weights on one machine. What does not live here: the generator
(harness/pocket/world.py) and the training (harness/pocket/pretrain.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.spec.model import Model

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class WorldSpec(Model):
    """People with attributes in exposure tiers, prose, skills, and questions, from one seed."""

    seed: int = Field(ge=0)
    people_per_tier: int = Field(ge=4, le=2000)
    exposures_high: int = Field(ge=1)
    exposures_mid: int = Field(ge=1)
    exposures_low: int = Field(ge=1)
    num_unknown_people: int = Field(ge=4, le=2000)
    plain_question_share: Share
    """Share of pretraining tokens in the plain `Q: ... A: ...` form, about one half of the people (POCKET regime)."""
    augmented: bool
    """Several templates per attribute, permuted order, name repeated; False is the storage-without-extraction regime."""


class PocketModelSpec(Model):
    """The architecture and pretraining of the pocket base: a Llama."""

    num_layers: int = Field(ge=1, le=16)
    hidden_size: int = Field(ge=16, le=1024)
    num_heads: int = Field(ge=1, le=16)
    vocab_size: int = Field(ge=256, le=8192)
    context: int = Field(ge=64, le=1024)
    num_steps: int = Field(ge=1)
    tokens_per_step: int = Field(ge=64)
    learning_rate: float = Field(gt=0)
    num_threads: int = Field(ge=1, le=64)
    """Threads of the pretraining run: part of the recipe, because another number gives other bytes."""
    marker_embeddings: Literal["untrained", "trained"]
    """Whether the chat markers' embedding rows occur in pretraining."""
