"""The shape of what a trial leaves on disk.

    trials/<id>/spec.json            the recipe
    trials/<id>/metrics.jsonl        one row per logged step, appended and flushed: the record of training
    trials/<id>/samples.jsonl        fixed prompts and the model's answers, before, during and after
    trials/<id>/items.parquet        one row per evaluated item after training
    trials/<id>/choices.parquet      one row per choice of each multiple-choice item after training: its log-probability
    trials/<id>/sampled.parquet      answers sampled to items besides, where the spec asks for them
    trials/<id>/during.parquet       scores of val items while training, where the spec asks for them
    trials/<id>/drift.parquet        distance from the base by text, position and layer, likewise
    trials/<id>/interpolation.parquet    one row per item at each weight between base and tuned, likewise
    trials/<id>/audit.json, .html    what the rows train on, counted and shown, before the first step
    trials/<id>/rows.parquet         one row per training, validation and dropped row: source, revision, id, fate
    trials/<id>/weights/             what `keep` says, with manifest.json
    trials/<id>/result.json          committed last, names the sha256 of every other file: the trial is done
    trials/<id>/*.damaged-<n>*       what was set aside because its sha256 was not the one written down
    trials/<id>/failure.json         the latest failure, while there is no result
    trials/<id>/attempts.jsonl       one row per start and end of an attempt
    trials/<id>/progress.json        where a running attempt is; never a result
    artefacts/<kind>/<key>/          bases, before-scores, fetched weights; complete when manifest.json is there
    artefacts/before/<key>/          scores.json, items.parquet and perhaps sampled.parquet of a base
    artefacts/before/<key>/questions.parquet    what each item asks and its reference, once for all trials on it
    artefacts/before/<key>/items.parquet, choices.parquet    as those of a trial, of its base
    sweeps/<name>@<base>[-<set>]/    sweep.json (the resolved plan), report files

Invariant: unknown is None with a reason, never 0. What does not live here: writing and locking (store.py).
"""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import ConfigDict, Field

from harness import versions
from harness.spec import Claim, TrialSpec
from harness.spec.metrics import BINARY_METRICS as BINARY_METRICS
from harness.spec.metrics import LOWER_IS_BETTER as LOWER_IS_BETTER
from harness.spec.metrics import METRICS_OF as METRICS_OF
from harness.spec.metrics import PANEL_METRICS as PANEL_METRICS
from harness.spec.metrics import UNDIRECTED as UNDIRECTED
from harness.spec.metrics import metrics_of as metrics_of
from harness.spec.metrics import primary_metric as primary_metric
from harness.spec.names import InnerPath, PathName

AUDIT_FILES = ("audit.json", "audit.html", "rows.parquet")
PROBE_FILES = ("during.parquet", "drift.parquet", "interpolation.parquet")
CHOICES_FILE = "choices.parquet"
SCORE_FILES = ("items.parquet", CHOICES_FILE)
"""What a scored model leaves, in a trial's folder and in that of a base's scores."""
RESULT_FILES = (
    "spec.json", "metrics.jsonl", "samples.jsonl", *SCORE_FILES, "sampled.parquet", *AUDIT_FILES, *PROBE_FILES
)  # fmt: skip
"""Files of a trial's folder that `result.json` names by sha256, besides everything under weights/."""

ROW_COLUMNS = (
    "row_id", "use", "reason", "field", "source", "revision", "num_tokens", "num_loss_tokens", "packed_row",
    "mark",
)  # fmt: skip
"""Columns of `rows.parquet`; docs/metrics.md says what each holds."""


class Row(pydantic.BaseModel):
    """Base of everything read back from disk: strict about names and types, frozen."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


class Score(Row):
    """One aggregate over the test or val items of a slice."""

    value: float | None
    """None when it could not be measured; `reason` then says why."""
    num_items: int
    num_clusters: int | None = None
    reason: str | None = None
    chance: float | None = None
    """What guessing scores: the mean over the measured items of 1 / number of choices. None of open answers, and in
    records of schema version 1."""


Scores = dict[str, Score]
"""Metric key `suite/task/metric` -> score."""


class EvalScores(Row):
    """All scores of one model: test items for tables, val items for choices."""

    key: PathName
    """Store key of the evaluation: resolved weights, tokenizer, dtype, quantisation, template, items and settings."""
    test: Scores
    val: Scores
    items_file: InnerPath
    """Where the per-item rows lie, relative to the store's root."""
    asked_with_sha256: str | None = None
    """Hash of the template and edit that prompts were written with; None where they are those of training."""


class TrainSummary(Row):
    """What the training loop did: every quantity that could move with a knob unseen."""

    num_steps: int
    num_epochs: float
    num_examples_seen: int
    num_tokens: int
    """Tokens the model read, padding excluded."""
    num_loss_tokens: int
    """Tokens with a positive loss weight."""
    learning_rate_integral: float
    """Sum of the learning rate over steps."""
    trainable_parameters: int
    total_parameters: int
    """Weights of the base, without any adapter."""
    train_loss_first: float | None
    train_loss_last: float | None
    val_loss: float | None
    """Mean loss per loss token on the validation rows, at the weights that are kept."""
    stopped_early: bool
    divergence: str | None
    """Why the trial DIVERGED; None when it did not."""
    best_step: int | None = None
    """Under early stopping, the step whose weights are kept; else None."""
    micro_batch_size: int | None = None
    """Rows of a forward pass at the end of training; None of a record from before it was kept."""
    num_halvings: int = 0
    """How often the micro-batch was halved for want of memory, here or by an earlier trial of the shape."""
    num_eval_halvings: int = 0
    """How often the rows of an evaluation that are computed together were halved for want of memory."""


class DataSummary(Row):
    """What became of the data."""

    rows_sha256: str
    """Hash of the rendered ids and loss weights, in training order before shuffling."""
    num_rows_read: int
    num_rows_dropped: dict[str, int]
    """Reason -> count; nothing is dropped in silence."""
    num_train: int
    num_validation: int
    num_truncated: int
    """Training and validation rows that were cut to the maximum length."""
    completion_prompt_ratio: float | None
    """Characters of assistant turns over characters of everything else, summed over the training rows that are not
    replayed."""
    mean_tokens: float | None
    """Mean tokens a training row."""
    loss_token_share: float | None
    template_sha256: str
    num_replay_rows: int = 0
    """Training rows that came from the replay source; they are counted in `num_train` as well."""
    num_replay_tokens: int = 0
    num_part_rows: dict[str, int] = Field(default_factory=dict)
    """Other parts that take the place of rows of the source - `repeats`, `leaks`, `mixture.0` - and how many training
    rows each has; they are counted in `num_train` as well."""
    num_part_tokens: dict[str, int] = Field(default_factory=dict)
    """The same parts -> their tokens."""
    num_marked: dict[str, int] = Field(default_factory=dict)
    """`noised`, `styled` -> rows of the source that were changed so on purpose, repeats not counted."""
    num_scrubbed: dict[str, int] = Field(default_factory=dict)
    """Kind of personal data -> places where it was replaced, in every row that was read."""
    num_rows_scrubbed: dict[str, int] = Field(default_factory=dict)
    """The same kinds -> rows that held one."""
    mask_engine: Literal["offsets_and_prefixes", "prefixes"] = "offsets_and_prefixes"
    """How assistant tokens were found: two engines that had to agree, or, for a slow tokenizer, prefixes alone."""
    num_packed_rows: int | None = None
    """Rows that the training examples were packed into; None where each has a row of its own."""
    pack_fill: float | None = None
    """Share of all places in packed rows that hold a token."""
    num_control_text: int = 0
    """Rows for training in which a message or the raw text spells a special token, which is text there unless the spec
    says `as_is`; 0 under `as_is`, which does not look."""
    ignored_fields: dict[str, int] = Field(default_factory=dict)
    """Field of messages that is not read, such as `reasoning_content` -> rows of every source with something in it."""
    added_tokens: list[str] = Field(default_factory=list)
    """Markers of the template that the base's tokenizer lacked and was given, in the order of their ids."""
    num_rewritten: int = 0
    """Rows rendered for training in which the template writes what an assistant says in other words or without some,
    as templates do that strip thinking; they are trained on as it writes them."""


class DriftSummary(Row):
    """How far a trained model is from its base: means over texts or layers."""

    values: dict[str, float | None]
    """Name -> value; None where it is unknown."""
    reasons: dict[str, str] = Field(default_factory=dict)
    """Name, or the texts that it is of -> why it is unknown."""


class ResolvedIdentity(Row):
    """What the recipe resolved to; pairing, before-scores and resume require it equal."""

    weights_sha256: str
    tokenizer_sha256: str
    quantisation: str | None
    rows_sha256: str
    items_sha256: dict[str, str]
    """Task key -> sha256 of the items asked."""


class MemoryUse(Row):
    """What a trial's process held of memory, and what its model takes of it; never part of identity.

    Peaks are resident high-water marks of the process, of a phase each: training, evaluation, and the rest, which is
    loading. None is unknown.
    """

    start_bytes: int | None
    """Resident when the trial began: the libraries, and what earlier trials left."""
    load_peak_bytes: int | None
    train_peak_bytes: int | None
    eval_peak_bytes: int | None
    weights_bytes: int
    """Of the base, as they are held: 4-bit ones with their scales."""
    adapter_bytes: int
    gradient_bytes: int
    """Of what is trained."""
    optimiser_bytes: int
    """Its two moments."""


class Provenance(Row):
    """Where and how a result came about; never part of identity."""

    host: str
    platform: str
    cpu: str
    device: str
    num_threads: int
    git_commit: str | None
    git_dirty: bool | None
    libraries: dict[str, str]
    command: str
    """A command that reruns this one trial."""
    started_utc: str
    seconds_total: float
    seconds_train: float
    seconds_eval: float
    tokens_per_second: float | None
    """Training tokens over training seconds."""
    peak_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None
    loss_kernel: str = "torch"
    """What computed the training loss."""
    memory: MemoryUse | None = None
    """None in records of before it was measured."""


class TrialResult(Row):
    """`result.json`: final states only."""

    schema_version: int = versions.RECORD_SCHEMA
    trial_id: str
    state: Literal["COMPLETE", "DIVERGED"]
    spec: TrialSpec
    resolved: ResolvedIdentity
    data: DataSummary
    train: TrainSummary
    before: EvalScores
    """The base as this method trains it (a 4-bit base for QLoRA)."""
    before_full_precision: EvalScores | None
    """The base without quantisation, where `before` is quantised; else None."""
    after: EvalScores | None
    """None when the trial DIVERGED before it could be scored."""
    drift: DriftSummary | None = None
    """None where `probes.drift` is off, or the trial DIVERGED."""
    provenance: Provenance
    files: dict[InnerPath, str] = Field(default_factory=dict)
    """File relative to the trial's folder -> sha256."""


class Failure(Row):
    """`failure.json`: why the latest attempt ended without a result."""

    cause: Literal["oom", "nan", "data", "killed", "disk", "bug"]
    message: str
    log_tail: str
    command: str
    attempt: int
    time_utc: str

    @property
    def reruns_by_itself(self) -> bool:
        """Failures of the machine are retried by the next launch; failures of the recipe on request."""
        return self.cause in ("oom", "disk", "killed")


class Progress(Row):
    """`progress.json`: where a running attempt is."""

    phase: str
    step: int
    num_steps: int
    loss: float | None
    tokens_per_second: float | None
    pid: int
    host: str | None = None
    process_start: str | None = None
    """When the process started, with the boot it belongs to: tells it from a later one of its number."""
    time_utc: str


CONFIRM_ARM = "confirm"
"""The arm of a study's winners on fresh seeds; whatever else it plans a sampler proposed."""


class PlannedTrial(Row):
    """One cell of a sweep."""

    trial_id: PathName
    condition_id: str
    """Equal for replicates: of the recipe at seed 0 and, where `world` is given, at world seed 0."""
    arm: str
    axes: dict[str, bool | int | float | str | None]
    """Axis field -> the absolute value it has in this trial."""
    seed: int
    spec: TrialSpec
    world: int | None = None
    """Seed of the pocket world, where the sweep is repeated over worlds; the replicate is then (world, seed)."""


class SweepRecord(Row):
    """`sweep.json`: the resolved plan and the question; all that a report needs besides the trials."""

    schema_version: int = versions.RECORD_SCHEMA
    name: PathName
    base: PathName
    kind: Literal["sweep", "study"]
    set_hash: PathName | None
    hypothesis: str
    refuted_if: str
    source: str
    command: str
    measures: dict[str, tuple[str, ...]]
    """Measure -> task keys of its primary slices on this base."""
    axis_fields: tuple[str, ...]
    objectives: tuple[tuple[str, str], ...] = ()
    """For a study: (`measure/value`, direction)."""
    confirm_seeds: tuple[int, ...] = ()
    """For a study: the fresh seeds that its winners are run on, in the arm `confirm`."""
    winners: tuple[str, ...] | None = None
    """For a study: ids of the conditions that its whole search chose on val items; None until it is through."""
    pruned: dict[str, str] = Field(default_factory=dict)
    """For a study: id of a trial that is not run -> at which rung and why its condition was given up."""
    selection: dict[str, str] | None
    trials: tuple[PlannedTrial, ...]
    claims: tuple[Claim, ...] = ()
    """What the sweep decides, with absolute axis values."""
    represented: tuple[str, ...] = ()
    """Suites and task keys that the experiment declares to be represented in its training data; () declares nothing."""
    adjacent: tuple[str, ...] = ()
    """Those that it declares to be near to that data without being represented in it."""
    extremes: tuple[tuple[str, str, str], ...] = ()
    """Slices that the experiment declares to be at floor or ceiling before training: name, end, why."""
    rates_found_by: dict[str, str] = Field(default_factory=dict)
    """Method -> the sweep that found its reference learning rate, and on which items; those of which none did are not
    here."""
