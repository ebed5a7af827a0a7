"""What a model is asked: slices of items, and everything else that decides a score besides the model.

Invariant: as of trial.py; whatever moves a score of the base as well is here, and what concerns the trained model alone
is in probes.py. What does not live here: metrics (metrics.py), reading items (harness/evals/items.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.spec.model import Elsewhere, Model, Scalar
from harness.spec.names import DType, Measure, Name, Sha256
from harness.spec.world import WorldSpec


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


class GeneratedItems(Model):
    """Items that the harness writes itself, from a seed."""

    kind: Literal["generated"] = "generated"
    name: Literal["python_return_values"]
    seed: int = Field(ge=0)
    max_items: int = Field(ge=1, le=4_000)
    """The generator makes so many; a larger number begins with the smaller one's items."""


ItemSource = Annotated[PocketItems | FileItems | GeneratedItems, Field(discriminator="kind")]


TaskKind = Literal[
    "multiple_choice", "schema", "greedy", "generate", "perplexity",
    "instruct", "refusal", "number", "open", "program",
]  # fmt: skip
"""Log-likelihood over choices; one continuation after several contexts; greedy match of a continuation; generated
answer compared with the reference; rolling perplexity of raw text; instructions that a program checks; requests that
should or should not be refused; a generated answer out of which the result is read; a generated answer to which there
is no reference; a function to write, which is run against tests."""
GENERATED: tuple[TaskKind, ...] = ("generate", "instruct", "refusal", "number", "open", "program")
"""Kinds whose items are answered with text."""
LAID_OUT: tuple[TaskKind, ...] = ("multiple_choice", "generate", "number")
"""Kinds whose items ask a question that can be laid out."""
Layout = Literal[
    "as_is", "bare", "question_answer", "q_a", "upper", "double_colon", "spaced", "one_line",
    "choices_listed", "choices_lettered",
]  # fmt: skip
"""What stands around a question: as its file has it, nothing, or one of those in harness/evals/layouts.py."""
SAMPLED: tuple[TaskKind, ...] = ("generate", "number", "program")
"""Kinds whose answer is right or wrong, so that of several sampled ones it can be said how many are."""
MAX_SAMPLES = 64


class EvalTask(Model):
    """One slice: items, how they are asked, and what they measure."""

    suite: Name
    name: Name
    kind: TaskKind
    source: ItemSource
    measure: Measure
    primary: bool
    chat: bool
    """Ask inside the trial's chat template (True) or as raw text."""
    num_items: int | None = Field(ge=1)
    """A stratified sample drawn with `EvalSpec.items_seed`, the same before and after; None is all."""
    max_new_tokens: int = Field(default=0, ge=0)
    version: int = Field(default=0, ge=0)
    """Version of the catalogue suite that defines the task; 0 is a task of no catalogue."""
    where: tuple[tuple[Name, Scalar], ...] = ()
    """Only items whose fields have these values."""
    panel: Literal["none", "behaviour"] = "none"
    """behaviour also measures what generated answers look like: repetition, leaks, length, copying."""
    typo_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the words of every question that are misspelled, the same ones before and after."""
    layout: Layout = "as_is"
    """What stands around every question, and whether its choices are listed; what is asked stays the same."""
    num_samples: int = 0
    """Answers sampled to every item beside the greedy one, for pass@k; 0 is none."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Of the sampled answers; the greedy one has none."""

    @property
    def key(self) -> str:
        """`suite/name`, the prefix of this slice's metric keys."""
        return f"{self.suite}/{self.name}"

    @model_validator(mode="after")
    def _generation_has_a_length(self) -> EvalTask:
        if (self.kind in GENERATED) != (self.max_new_tokens > 0):
            raise ValueError(f"max_new_tokens must be positive for kinds {', '.join(GENERATED)} and 0 for every other")
        if self.panel == "behaviour" and self.kind not in GENERATED:
            raise ValueError(f"panel is 'behaviour', but must be 'none' for kind {self.kind!r}: it writes no answer")
        return self

    @model_validator(mode="after")
    def _samples_can_be_judged(self) -> EvalTask:
        if self.num_samples and self.kind not in SAMPLED:
            raise ValueError(
                f"num_samples is {self.num_samples!r}, but must be 0 for kind {self.kind!r}: only answers of kinds "
                f"{', '.join(SAMPLED)} are right or wrong"
            )
        if self.num_samples != 0 and not 2 <= self.num_samples <= MAX_SAMPLES:
            raise ValueError(f"num_samples is {self.num_samples!r}, but must be 0 or from 2 to {MAX_SAMPLES}")
        if not self.num_samples and self.temperature != 1.0:
            raise ValueError(
                f"temperature is {self.temperature!r}, but must be 1.0 where num_samples is 0: nothing is sampled; "
                "set num_samples"
            )
        return self

    @model_validator(mode="after")
    def _items_can_be_told_apart(self) -> EvalTask:
        fields = [name for name, _ in self.where]
        if len(set(fields)) != len(fields):
            raise ValueError(f"where is {self.where!r}, but must name a field once")
        if self.kind == "refusal" and not isinstance(dict(self.where).get("unsafe"), bool):
            raise ValueError(
                f"where is {self.where!r}, but must say whether unsafe is true or false for kind 'refusal': "
                "refusing is right for the one and wrong for the other"
            )
        if self.typo_rate and self.kind in ("perplexity", "schema"):
            raise ValueError(
                f"typo_rate is {self.typo_rate!r}, but must be 0.0 for kind {self.kind!r}: it asks no question"
            )
        return self

    @model_validator(mode="after")
    def _layout_has_a_question(self) -> EvalTask:
        if self.layout != "as_is" and self.kind not in LAID_OUT:
            raise ValueError(
                f"layout is {self.layout!r}, but must be 'as_is' for kind {self.kind!r}: only a question of kind "
                f"{', '.join(LAID_OUT)} can be laid out"
            )
        if self.layout.startswith("choices_") and self.kind != "multiple_choice":
            raise ValueError(f"layout is {self.layout!r}, but must list no choices for kind {self.kind!r}: it has none")
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
