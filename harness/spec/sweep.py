"""What varies, and where it runs: experiments, sweeps, studies, and how a trial is executed.

Invariant: a `Sweep` names fields of a `TrialSpec` and values, nothing else; which values an axis takes may be relative
to the experiment it runs on. `Runtime` holds all that must not enter a fingerprint. What does not live here: turning a
sweep into trials (harness/engine/plan.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from harness.spec import claim as claim_spec
from harness.spec.claim import Claim
from harness.spec.model import Model, Scalar
from harness.spec.names import Measure, Name
from harness.spec.trial import MethodConfig, TrialSpec

WORLD_SEED = "world.seed"
"""The field that stands for the seed of the pocket world in base, rows and items at once."""


MAX_HALVINGS = 3
"""How often a micro-batch is halved where memory runs out, before the trial fails."""


class Runtime(Model):
    """How and where a trial runs; moves no number at a fixed thread count."""

    num_threads: int = Field(ge=1, le=256)
    """Compute threads per trial. On CPU results are bitwise only at an equal number, so an experiment states it."""
    micro_batch_size: int = Field(ge=1)
    eval_batch_size: int = Field(ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    keep: Literal["none", "adapter", "all"] = "none"
    """Which trained weights stay: none, adapters only, or everything."""
    checkpoint_every: int = Field(default=0, ge=0)
    """Steps between training checkpoints; 0 is none: a killed trial then starts again."""
    loss_kernel: Literal["torch", "liger"] = "torch"
    """What computes the loss: torch, or on a GPU Liger's fused kernel, which moves last digits and is recorded."""
    num_halvings: int = Field(default=0, ge=0, le=MAX_HALVINGS)
    """How often the micro-batch is halved from the start: the engine sets it where trials of a shape ran out of memory
    before."""
    num_eval_halvings: int = Field(default=0, ge=0, le=MAX_HALVINGS)
    """How often `eval_batch_size` is halved from the start: the engine sets it where the system killed an evaluation of
    this trial for memory."""

    rehearses: bool = False
    """Whether training, once done, tries what forward passes of each size need of memory: of a probe, by the engine."""
    gpu_memory_gb: float | None = Field(default=None, gt=0)
    """GPU memory that one trial takes, in GiB: as many share a GPU as it holds. None gives each trial a whole one."""
    num_processes: int = Field(default=1, ge=1, le=64)
    """Processes that train one trial's model together; each has `num_threads`, and on GPUs one of its own. As with the
    micro-batch, the order of additions is the machine's: last digits may differ from those of one process."""
    sharding: Literal["none", "fsdp"] = "none"
    """What each of several processes holds: all of the model, or with `fsdp` its share of weights, gradients and
    optimizer state, so that a model may be trained that is too large for one."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Main memory that one trial asks of Ray or SLURM, in GiB; None asks for none, and SLURM gives its own default."""
    time_limit_minutes: int | None = Field(default=None, ge=5)
    """What a SLURM job of one attempt may take; None is the partition's default."""

    @model_validator(mode="after")
    def _processes_know_their_device(self) -> Runtime:
        several = f"where num_processes is {self.num_processes}"
        if self.num_processes > 1 and self.device == "auto":
            raise ValueError(f"device is 'auto', but must be 'cpu' or 'cuda' {several}")
        if self.num_processes > 1 and self.gpu_memory_gb is not None:
            raise ValueError(f"gpu_memory_gb is {self.gpu_memory_gb:g}, but must be None {several}: each has a GPU")
        if self.num_processes == 1 and self.sharding != "none":
            raise ValueError(f"sharding is {self.sharding!r}, but must be 'none' {several}; raise num_processes")
        return self

    @property
    def num_cores(self) -> int:
        """How many a trial keeps busy."""
        return self.num_threads * self.num_processes

    def rows_per_pass(self, batch_size: int, num_halvings: int) -> int:
        """Return the rows of a forward pass after so many halvings: a step has as many passes more, the same tokens.

        Without any, they are few enough for every process to get some.
        """
        each = -(-batch_size // self.num_processes)
        return max(1, -(-min(self.micro_batch_size, each) // 2**num_halvings))


class MethodReference(Model):
    """A method as it is meant on a base, with the learning rate that its sweep found there."""

    method: MethodConfig
    learning_rate: float = Field(gt=0)
    found_by: str = ""
    """The sweep that found the rate, and on which items; "" is a rate that no sweep of this base found."""


class Experiment(Model):
    """A base, its data and evaluation, and what axes may be relative to."""

    name: Name
    spec: TrialSpec
    runtime: Runtime
    methods: tuple[MethodReference, ...]
    sizes: tuple[int, ...]
    """Ascending sizes that a data-size axis takes here."""
    extremes: tuple[tuple[str, Literal["floor", "ceiling"], str], ...] = ()
    """Slices that can move one way only on this base: the task's name without its suite, which end it is at, why."""
    represented: tuple[str, ...] = ()
    """Suites and task keys that the experiment's own training data represents: the alignment tax is over the others."""
    adjacent: tuple[str, ...] = ()
    """Suites and task keys that the data does not represent but is near to (the same skill or facts in another form):
    the alignment tax is over these as well, and marks them."""

    @model_validator(mode="after")
    def _sizes_ascend(self) -> Experiment:
        if list(self.sizes) != sorted(set(self.sizes)) or not self.sizes:
            raise ValueError("sizes must be a non-empty ascending tuple without repeats")
        return self

    @model_validator(mode="after")
    def _adjacent_is_not_represented(self) -> Experiment:
        both = sorted(set(self.adjacent) & set(self.represented))
        if both:
            raise ValueError(f"adjacent is {self.adjacent!r}, but must not name what represented does: {both}")
        return self


class Axis(Model):
    """One varied field.

    `field` is a dotted field of TrialSpec, or `method`, whose values are method kinds and bring that method's own
    configuration and reference learning rate from the experiment.
    """

    field: str = Field(min_length=1)
    values: tuple[Scalar, ...] = ()
    relative_to: Literal["nothing", "reference_learning_rate", "sizes"] = "nothing"
    """`reference_learning_rate`: values are multiples of the method's reference. `sizes`: the experiment's sizes."""

    @model_validator(mode="after")
    def _has_values(self) -> Axis:
        if (self.relative_to == "sizes") == bool(self.values):
            raise ValueError("values must be given, and must be empty exactly when relative_to is 'sizes'")
        if len(set(map(repr, self.values))) != len(self.values):
            raise ValueError("values must not repeat")
        return self


class Arm(Model):
    """A named variant of the whole sweep: what is held equal, and fields set."""

    name: Name
    hold: Literal["epochs", "steps"]
    """`epochs`: each trial passes its data as often as the experiment says. `steps`: each trial takes as many steps
    as the experiment's own size takes at the experiment's epochs."""
    set: tuple[tuple[str, Scalar], ...] = ()


class Selection(Model):
    """Choose on val, report on test: within each level of `within`, keep the level of `axis` with the best score.

    Refused where there are no val items.
    """

    axis: str
    within: str
    measure: Measure


class Sweep(Model):
    """Axes x arms x seeds over an experiment, with the question it answers."""

    name: Name
    hypothesis: str = Field(min_length=1)
    refuted_if: str = Field(min_length=1)
    source: str = Field(min_length=1)
    axes: tuple[Axis, ...] = Field(min_length=1)
    arms: tuple[Arm, ...] = (Arm(name="equal_epochs", hold="epochs"),)
    seeds: tuple[int, ...] = Field(min_length=1)
    measures: tuple[Measure, ...]
    """Primary slices of these measures are scored; `PANEL=full` scores all."""
    slices: tuple[Name, ...] = ()
    """Names of further slices that are scored; they count for no measure."""
    set: tuple[tuple[str, Scalar], ...] = ()
    """Fields of the experiment's spec that this sweep fixes first."""
    selection: Selection | None = None
    max_trials: int = Field(default=2000, ge=1)
    claims: tuple[Claim, ...] = ()
    """What this sweep decides; the slices that they name are scored besides those of the measures."""
    worlds: tuple[int, ...] = ()
    """Seeds of the pocket world over which the whole sweep is repeated, as replicates; empty is the base's own world.
    Only a base that names a pocket world has any."""
    pruning: Any = None
    """None: it is a study's alone."""

    @model_validator(mode="after")
    def _prunes_nothing(self) -> Sweep:
        # Not before validation: what such a validator returns counts as Python, whose lists are no tuples.
        if self.pruning is not None:
            raise ValueError(
                "pruning is given, but must be a study's alone: a sweep compares every condition on every seed"
            )
        return self

    @model_validator(mode="after")
    def _worlds_are_replicates(self) -> Sweep:
        if len(set(self.worlds)) != len(self.worlds) or any(world < 0 for world in self.worlds):
            raise ValueError(f"worlds is {self.worlds!r}, but must be different integers from 0 on")
        fixed = [field for field, _ in (*self.set, *(pair for arm in self.arms for pair in arm.set))]
        if self.worlds and WORLD_SEED in (*fixed, *(axis.field for axis in self.axes)):
            raise ValueError(f"worlds is {self.worlds!r}, but must be empty where {WORLD_SEED} is an axis or set")
        return self

    @model_validator(mode="after")
    def _claims_name_what_is_planned(self) -> Sweep:
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) != len(ids):
            raise ValueError("claims must have different ids")
        values = {axis.field: axis.values if axis.relative_to != "sizes" else None for axis in self.axes}
        arms = tuple(arm.name for arm in self.arms)
        problems = [p for claim in self.claims for p in claim_spec.problems(claim, values, arms, self.measures)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


class Dimension(Model):
    """One dimension of a study's space: a range or choices, perhaps only under a condition."""

    field: str
    """A dotted field of TrialSpec, or `method`."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[Scalar, ...] = ()
    relative_to: Literal["nothing", "reference_learning_rate"] = "nothing"
    only_for_methods: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _range_or_choices(self) -> Dimension:
        ranged = self.low is not None and self.high is not None and self.low < self.high
        if ranged == bool(self.choices):
            raise ValueError("either low < high or choices must be given, not both")
        return self


class Objective(Model):
    """A number of the frame to optimise, on val items."""

    measure: Measure
    value: Literal["after", "delta"]
    direction: Literal["maximize", "minimize"]


class Constraint(Model):
    """A frame column that must stay at or below a limit for a condition to be feasible."""

    column: str
    at_most: float


class Pruning(Model):
    """Successive halving over seeds: a condition goes on to more seeds only where it is among the best so far.

    A rung is a number of seeds, not of steps: each trial is the whole recipe with its whole schedule, so that what is
    compared is what is meant, and no trial that ran is thrown away. At each rung the conditions of a batch, and all
    that reached it before, are ranked by their mean over the first seeds; one in `reduction_factor` goes on, at least
    one.
    """

    rungs: tuple[int, ...] = Field(min_length=1)
    """Ascending numbers of seeds after which a condition is compared; each less than the number of seeds."""
    reduction_factor: int = Field(default=3, ge=2)

    @model_validator(mode="after")
    def _rungs_ascend(self) -> Pruning:
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[0] < 1:
            raise ValueError(f"rungs is {self.rungs!r}, but must be ascending numbers of seeds from 1 on")
        return self


class Study(Model):
    """An Optuna search: one ask is one condition run on all seeds; tell gets the mean."""

    name: Name
    hypothesis: str = Field(min_length=1)
    refuted_if: str = Field(min_length=1)
    source: str = Field(min_length=1)
    space: tuple[Dimension, ...] = Field(min_length=1)
    objectives: tuple[Objective, ...] = Field(min_length=1)
    constraints: tuple[Constraint, ...] = ()
    num_conditions: int = Field(ge=1)
    num_startup_conditions: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    sampler_seed: int = Field(ge=0)
    measures: tuple[Measure, ...]
    set: tuple[tuple[str, Scalar], ...] = ()
    confirm_seeds: tuple[int, ...] = ()
    """Fresh seeds on which the conditions that the search chose are run at its end: only these scores name a winner.
    () confirms nothing, and the report says so."""
    max_confirmed: int = Field(default=3, ge=1)
    """Conditions of the front of several objectives that are confirmed; of one objective it is the best alone."""
    pruning: Pruning | None = None
    """Gives up conditions on their way; for one objective alone."""

    @model_validator(mode="after")
    def _confirms_on_fresh_seeds(self) -> Study:
        problem = stale_seeds(self.confirm_seeds, self.seeds)
        if problem:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _prunes_one_objective(self) -> Study:
        if self.pruning is None:
            return self
        if len(self.objectives) > 1:
            raise ValueError(
                f"pruning is given, but must be None with {len(self.objectives)} objectives: a condition that is "
                "behind on one may lead on another"
            )
        if self.pruning.rungs[-1] >= len(self.seeds):
            raise ValueError(
                f"pruning.rungs is {self.pruning.rungs!r}, but must be below the number of seeds, {len(self.seeds)}"
            )
        return self


def stale_seeds(confirm_seeds: tuple[int, ...], seeds: Sequence[int]) -> str | None:
    """Return why these seeds confirm nothing that was found on the others, or None."""
    if len(set(confirm_seeds)) != len(confirm_seeds) or any(seed < 0 for seed in confirm_seeds):
        return f"confirm_seeds is {confirm_seeds!r}, but must be different integers from 0 on"
    if known := sorted(set(confirm_seeds) & set(seeds)):
        return (
            f"confirm_seeds is {confirm_seeds!r}, but must be other seeds than the search's: it chose by {known}; give "
            "fresh ones"
        )
    return None
