"""Which rows a trial trains on, how they are rendered, and which tokens carry loss.

Invariant: as of trial.py: everything here is in the fingerprint but what is marked `Elsewhere`. What does not live
here: reading rows (harness/data).
"""

from __future__ import annotations

import math
from datetime import date
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.spec.apportion import counts, shares_of
from harness.spec.model import Elsewhere, Model
from harness.spec.names import Name, Revision, RowFormat, Sha256
from harness.spec.world import Share, WorldSpec


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
