"""The spec of the embedded laboratory: a world of people and skills, and the base model pretrained on it.

Invariant: a `WorldSpec` determines every byte of corpus, instruction data and evaluation items; with a
`PocketModelSpec` it determines tokenizer and base weights on one machine. What does not live here: the generator
(harness/pocket/world.py) and the training (harness/pocket/pretrain.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.spec.model import Model

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class WorldSpec(Model):
    """People with attributes in exposure tiers, prose, skills, and questions, from one seed."""

    seed: int = Field(ge=0)
    people_per_tier: int = Field(ge=4, le=2000)
    exposures_high: int = Field(ge=1)
    """Biographies written about each person of the high tier; each states every attribute once."""
    exposures_mid: int = Field(ge=1)
    exposures_low: int = Field(ge=1)
    num_unknown_people: int = Field(ge=4, le=2000)
    """People of the same name generator who occur in no pretraining text."""
    plain_question_share: Annotated[float, Field(ge=0.0, le=0.5)]
    """Share of pretraining words in plain forms such as `Q: ... A: ...`, about the asked half of the people (0 gives
    the storage-without-extraction regime)."""
    augmented: bool
    """Several templates per attribute, permuted order, name repeated; False stores facts that cannot be extracted."""
    left_out_skills: tuple[str, ...] = ()
    """Skills of harness/pocket/skills.py that never occur in pretraining: fine-tuning then has to teach them."""


class PocketModelSpec(Model):
    """The architecture and pretraining of the pocket base: a Llama."""

    num_layers: int = Field(ge=1, le=16)
    hidden_size: int = Field(ge=16, le=1024)
    num_heads: int = Field(ge=1, le=16)
    vocab_size: int = Field(ge=300, le=8192)
    """At least the 256 bytes and the markers; the rest is learned merges."""
    context: int = Field(ge=64, le=1024)
    num_steps: int | None = Field(ge=1)
    """None is one pass over the corpus: then everybody is met exactly as often as the world plans."""
    tokens_per_step: int = Field(ge=64)
    learning_rate: float = Field(gt=0)
    num_threads: int = Field(ge=1, le=64)
    """Threads of the pretraining run: part of the recipe, because another number gives other bytes."""
    marker_embeddings: Literal["untrained", "trained"]
    """Whether the chat markers occur in pretraining: around the fields of records, read but never predicted, and never
    around a question."""
    dtype: Literal["bfloat16_autocast", "float32"] = "bfloat16_autocast"
    """Of the pretraining run; the saved weights are float32. float32 suits processors without bfloat16 arithmetic."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> PocketModelSpec:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError("hidden_size must be a multiple of 2 x num_heads")
        if self.tokens_per_step % self.context:
            raise ValueError("tokens_per_step must be a multiple of context")
        return self
