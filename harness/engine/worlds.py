"""One pocket world a trial: `world.<field>` changes it everywhere, two in one trial or one that cannot be are refused.

Invariant: where base, rows and items name a pocket world, they name the same one; else a score would be about people
whom the base never met. What does not live here: what a world is (harness/spec/world.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import SpecError, unknown_name
from harness.pocket import expectations
from harness.pocket.world import build
from harness.spec import (
    WORLD_SEED,
    PocketBase,
    PocketData,
    PocketItems,
    PocketText,
    Sweep,
    TrialBase,
    TrialSpec,
    WorldSpec,
)

if TYPE_CHECKING:
    from harness.engine.resolve import Setting

PREFIX = "world."
CERTAINLY = 0.8
"""Of the estimated corpus: a token budget below that is refused at once. The estimate is right to a tenth."""


def applied(spec: TrialSpec, changes: Mapping[str, Any]) -> TrialSpec:
    """Return a spec with `world.<field>` changes made in base, rows and items.

    Raises:
        SpecError: a world has no such field or value, nothing here names a world, or the base was trained on its own.
    """
    if not changes:
        return spec
    for field in changes:
        if field.removeprefix(PREFIX) not in WorldSpec.model_fields:
            names = [PREFIX + name for name in WorldSpec.model_fields]
            raise SpecError(unknown_name("field of the pocket world", field, names))
    first = next(iter(changes))
    if isinstance(spec.base, TrialBase):
        raise SpecError(f"{first} has no meaning on a base that is a trial, because that was trained on its own world.")
    check(spec)
    if not (worlds := list(_worlds(spec))):
        raise SpecError(f"{first} has no meaning here, because base, rows and items name no pocket world.")
    try:
        world = worlds[0][1].replace({field.removeprefix(PREFIX): value for field, value in changes.items()})
    except SpecError as error:
        raise SpecError(PREFIX + problem for problem in error.problems) from None
    tasks = [
        task.replace({"source.world": world}) if isinstance(task.source, PocketItems) else task
        for task in spec.evals.tasks
    ]
    everywhere: dict[str, Any] = {"evals.tasks": [json.loads(task.model_dump_json()) for task in tasks]}
    if isinstance(spec.base, PocketBase):
        everywhere["base.world"] = world
    if isinstance(spec.data.source, PocketData | PocketText):
        everywhere["data.source.world"] = world
    if isinstance(spec.data.replay_source, PocketData | PocketText):
        everywhere["data.replay_source.world"] = world
    if any(isinstance(part.source, PocketData | PocketText) for part in spec.data.mixture):
        mixed = [
            part.replace({"source.world": world}) if isinstance(part.source, PocketData | PocketText) else part
            for part in spec.data.mixture
        ]
        everywhere["data.mixture"] = [json.loads(part.model_dump_json()) for part in mixed]
    return spec.replace(everywhere)


def replicates(spec: TrialSpec, seeds: Sequence[int]) -> tuple[TrialSpec, list[tuple[int | None, TrialSpec]]]:
    """Return what stands for a condition over worlds, and the condition in each world.

    Args:
        spec: the condition in the base's own world.
        seeds: world seeds; empty is the own world alone, which then has no number.
    """
    if not seeds:
        return spec, [(None, spec)]
    return applied(spec, {WORLD_SEED: 0}), [(seed, applied(spec, {WORLD_SEED: seed})) for seed in seeds]


def of_sweep(setting: Setting) -> tuple[int, ...]:
    """Return the world seeds that a sweep is repeated over here; empty is the base's own world.

    Raises:
        SpecError: the base names no pocket world.
    """
    assert isinstance(setting.sweep, Sweep)
    seeds = setting.axis_values.get(WORLD_SEED, setting.sweep.worlds)
    if any(axis.field == WORLD_SEED for axis in setting.sweep.axes):
        return ()
    spec = setting.experiment.spec
    if seeds and (isinstance(spec.base, TrialBase) or not any(_worlds(spec))):
        raise SpecError(
            f"sweep {setting.sweep.name!r} is repeated over the pocket worlds {', '.join(map(str, seeds))}, but base "
            f"{setting.experiment.name!r} names none; to run it once on this base, add SET='{{\"{WORLD_SEED}\": []}}'."
        )
    return tuple(seeds)


def check(spec: TrialSpec) -> None:
    """Refuse a trial whose base, rows and items are of different pocket worlds.

    Raises:
        SpecError: they are; the sentence names the first field that differs.
    """
    worlds = list(_worlds(spec))
    for place, world in worlds[1:]:
        first_place, first = worlds[0]
        if world == first:
            continue
        name = next(name for name in WorldSpec.model_fields if getattr(world, name) != getattr(first, name))
        raise SpecError(
            f"{place}.{name} is {getattr(world, name)!r}, but must be {getattr(first, name)!r} as in {first_place}: "
            f"base, rows and items are of one pocket world; set {PREFIX}{name} to change it in all of them."
        )


def check_generated(specs: Iterable[TrialSpec]) -> None:
    """Refuse worlds that cannot exist, rows that they cannot give, corpora that no budget of tokens can hold and rows
    beyond the context, long before a base is pretrained.

    Raises:
        SpecError: naming the field, once for each.
    """
    # Replicates share their parts: told apart by place first, since to hash each of thousands takes seconds.
    specs = list({(id(spec.base), id(spec.data), id(spec.evals)): spec for spec in specs}.values())
    made = dict.fromkeys(source for spec in specs for source in (spec.data.source, *spec.data.other_sources))
    bases = dict.fromkeys(spec.base for spec in specs if isinstance(spec.base, PocketBase))
    problems: dict[str, None] = dict.fromkeys(problem for base in bases for problem in _over_budget(base))
    problems |= dict.fromkeys(problem for spec in specs for problem in _over_context(spec))
    for source in made:
        try:
            if isinstance(source, PocketData):
                build(source.world).rows(source)
            elif isinstance(source, PocketText):
                build(source.world).check_kinds(source)
        except SpecError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise SpecError(problems)


def _over_budget(base: PocketBase) -> Iterator[str]:
    """Yield why a token budget cannot hold a corpus; what only just fits, pretraining decides on the exact number."""
    model, tokens = base.model, expectations.num_tokens(base.world)
    if model.num_steps is not None and model.num_steps * model.tokens_per_step < CERTAINLY * tokens:
        yield (
            f"base.model.num_steps is {model.num_steps}, but must be about {math.ceil(tokens / model.tokens_per_step)} "
            f"or more: the planned exposures make a corpus of about {tokens / 1e6:.2g} million tokens at "
            f"{model.tokens_per_step} a step; raise it, leave it out for one pass, or lower the exposures or people"
        )


def _over_context(spec: TrialSpec) -> Iterator[str]:
    """Yield which lengths are beyond what a base that is built here was ever shown."""
    if not isinstance(spec.base, PocketBase):
        return
    context = spec.base.model.context
    for field, length in (("data.max_length", spec.data.max_length), ("evals.max_length", spec.evals.max_length)):
        if length > context:
            yield f"{field} is {length}, but must be at most {context}, base.model.context"


def _worlds(spec: TrialSpec) -> Iterator[tuple[str, WorldSpec]]:
    if isinstance(spec.base, PocketBase):
        yield "base.world", spec.base.world
    if isinstance(spec.data.source, PocketData | PocketText):
        yield "data.source.world", spec.data.source.world
    if isinstance(spec.data.replay_source, PocketData | PocketText):
        yield "data.replay_source.world", spec.data.replay_source.world
    for number, part in enumerate(spec.data.mixture):
        if isinstance(part.source, PocketData | PocketText):
            yield f"data.mixture.{number}.source.world", part.source.world
    for task in spec.evals.tasks:
        if isinstance(task.source, PocketItems):
            yield f"evals.tasks {task.key} source.world", task.source.world
