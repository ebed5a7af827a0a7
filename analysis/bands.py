"""The acceptance bands of a pocket world: what it must show before a claim may be decided in it.

A band is a range for one number, averaged over worlds; the interval beside it is a 95 % t interval over the worlds' own
means, because another world is what a reader would draw next. A number that is unknown fails its band. What does not
live here: running the trials that the numbers come from (harness/engine/laboratory.py), any claim.
"""

# pyright: basic
# pyarrow has no annotations: what strict checking says of it is noise.
from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.opened import OpenedSweep
from harness.errors import BadInputError
from harness.identity import base_key
from harness.records.schema import TrialResult
from harness.records.store import Store

DEFAULT_ARM, HARSH_ARM = "default", "harsh"
NUM_VALUES = 12
"""Values of each attribute: chance is 1 in so many."""
NUM_ATTRIBUTES = 4
TIERS = ("high", "mid", "low")


@dataclass(frozen=True)
class Band:
    """One number against its range."""

    name: str
    low: float
    high: float
    value: float
    """Mean over worlds of the worlds' means; nan where a world lacks it."""
    interval: tuple[float, float]
    """95 % t interval over worlds; nan for fewer than two."""
    by_world: dict[int, float]

    @property
    def passed(self) -> bool:
        """Whether the mean lies in the range; False where it is unknown."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class WorldFacts:
    """What a base was built from, and what it stores."""

    world: int
    num_parameters: int
    num_corpus_tokens: int
    exposures: dict[str, float]
    """Tier, asked people apart -> how often pretraining told each fact."""
    bits_per_person: dict[str, float]
    """Tier -> knowledge bits of one person; `NUM_ATTRIBUTES` log2 `NUM_VALUES` is everything."""


@dataclass(frozen=True)
class Laboratory:
    """A pocket world, judged."""

    bands: tuple[Band, ...]
    worlds: tuple[WorldFacts, ...]
    num_trials: int
    num_missing: int
    """Planned trials without a result; a band that needs one fails."""

    @property
    def passed(self) -> bool:
        """Whether every band holds."""
        return all(band.passed for band in self.bands)


Number = Callable[[TrialResult], float]


def judge(sweep: OpenedSweep) -> Laboratory:
    """Return the bands of the worlds that a sweep with a default and a harsh arm ran on.

    Raises:
        BadInputError: the sweep has other arms.
    """
    arms = {trial.planned.arm for trial in sweep.trials}
    if arms != {DEFAULT_ARM, HARSH_ARM}:
        raise BadInputError(f"sweep {sweep.record.name!r} has the arms {sorted(arms)}, but must have default and harsh")
    trained = _by_world(sweep, DEFAULT_ARM)
    return Laboratory(
        bands=tuple(bands(trained, _by_world(sweep, HARSH_ARM))),
        worlds=tuple(_facts(sweep.store, world, results) for world, results in trained.items() if results),
        num_trials=len(sweep.trials),
        num_missing=sum(trial.result is None for trial in sweep.trials),
    )


def bands(trained: Mapping[int, list[TrialResult]], harsh: Mapping[int, list[TrialResult]]) -> list[Band]:
    """Return every band of worlds whose trials are at hand.

    Args:
        trained: world seed -> results at the default setting, one a seed; a world without any fails its bands.
        harsh: the same at the harsh setting.
    """
    default = [_band(name, low, high, trained, number) for name, low, high, number in _of_default(trained)]
    return [*default, _band("harsh: unasked people's cloze lost", 0.20, 1.0, harsh, _cloze_lost)]


def _by_world(sweep: OpenedSweep, arm: str) -> dict[int, list[TrialResult]]:
    """Return world seed -> its results; a world of which a trial is missing has none, so that no mean is of a part."""
    results: defaultdict[int, list[TrialResult | None]] = defaultdict(list)
    for trial in sweep.trials:
        if trial.planned.arm == arm:
            results[trial.planned.world or 0].append(trial.result)
    return {
        world: [result for result in found if result is not None] if None not in found else []
        for world, found in results.items()
    }


# -- numbers ----------------------------------------------------------------------------------------------------------


def _of_default(trained: Mapping[int, list[TrialResult]]) -> Iterable[tuple[str, float, float, Number]]:
    chance = 1 / NUM_VALUES
    error = math.sqrt(chance * (1 - chance) / max(1, _num_items(trained, "pocket/cloze_unknown/acc")))
    yield "base: cloze, high tier", 0.95, 1.0, _before("pocket/cloze_high/acc")
    yield "base: cloze, mid tier", 0.60, 0.95, _before("pocket/cloze_mid/acc")
    yield "base: cloze, low tier", 0.15, 0.60, _before("pocket/cloze_low/acc")
    unknown = "base: cloze, unknown people (chance +- 2 SE)"
    yield unknown, chance - 2 * error, chance + 2 * error, _before("pocket/cloze_unknown/acc")
    asked = _before("pocket/question_asked/exact_match", "pocket/question_unasked/exact_match")
    yield "base: questions answered in chat", 0.0, 0.10, asked
    yield "base: turns ended in chat", 0.0, 0.05, _before("pocket/question_unasked/end_of_turn")
    skills = ("pocket/arithmetic/acc", "pocket/lists/acc", "pocket/replace/acc")
    yield "base: raw skills, seen instances", 0.90, 1.0, _before(*skills)
    yield "base: raw skills, held-out instances", 0.70, 1.0, _before("pocket/arithmetic_held_out/acc")
    yield "default: turns ended", 0.98, 1.0, _after("pocket/question_unasked/end_of_turn")
    yield "default: unasked questions / base's cloze", 0.70, math.inf, _surfaced
    yield "default: unasked people's cloze lost", -math.inf, 0.10, _cloze_lost


def _before(*keys: str) -> Number:
    return lambda result: _mean([_score(result.before.test, key) for key in keys])


def _after(*keys: str) -> Number:
    return lambda result: _mean([_score(result.after.test if result.after else {}, key) for key in keys])


def _surfaced(result: TrialResult) -> float:
    """Return what can be asked for about unasked people over what the base can complete of the same facts; nan where
    it completes none of them."""
    known = _before("pocket/cloze_unasked/acc")(result)
    return _after("pocket/question_unasked/exact_match")(result) / known if known else math.nan


def _cloze_lost(result: TrialResult) -> float:
    return _before("pocket/cloze_unasked/acc")(result) - _after("pocket/cloze_unasked/acc")(result)


def _score(scores: Any, key: str) -> float:
    score = scores.get(key)
    return math.nan if score is None or score.value is None else float(score.value)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _num_items(trained: Mapping[int, list[TrialResult]], key: str) -> int:
    scores = (results[0].before.test.get(key) for results in trained.values() if results)
    return sum(score.num_items for score in scores if score is not None)


def _band(name: str, low: float, high: float, trained: Mapping[int, list[TrialResult]], number: Number) -> Band:
    from analysis import stats  # scipy takes a second, and every command would wait for it

    by_world = {world: _mean([number(result) for result in results]) for world, results in trained.items()}
    values = list(by_world.values())
    effect = stats.seeds_effect(values)
    return Band(name, low, high, _mean(values), (effect.low, effect.high), by_world)


# -- facts ------------------------------------------------------------------------------------------------------------


def _facts(store: Store, world: int, results: list[TrialResult]) -> WorldFacts:
    first = results[0]
    built = built_from(store, first)
    return WorldFacts(
        world=world,
        num_parameters=built["num_parameters"],
        num_corpus_tokens=built["num_corpus_tokens"],
        exposures=built["exposures_per_fact"],
        bits_per_person={tier: _bits(store, first, f"cloze_{tier}") for tier in TIERS},
    )


def built_from(store: Store, result: TrialResult) -> dict[str, Any]:
    """Return `pretraining.json` of a trial's base.

    Raises:
        BadInputError: the base is gone.
    """
    path = store.artefact("base", base_key(result.spec)) / "pretraining.json"
    if not path.is_file():
        raise BadInputError(f"{path} is gone, but the trials on that base are here; give another OUT= to build it anew")
    return json.loads(path.read_text())


def _bits(store: Store, result: TrialResult, task: str) -> float:
    """Return the mean over facts of max(0, log2 |V| + log2 P(value | prompt)), times the attributes of a person.

    Source: knowledge bits as in Allen-Zhu and Li, arXiv:2404.05405, bounded below by 0 for each fact.
    """
    import pyarrow.parquet as pq

    path = store.root / result.before.items_file
    if not path.is_file():
        return math.nan
    rows = pq.read_table(path, columns=["task", "metric", "value"]).to_pylist()
    logprobs = [row["value"] for row in rows if (row["task"], row["metric"]) == (task, "gold_logprob")]
    if not logprobs or None in logprobs:
        return math.nan
    known = [max(0.0, math.log2(NUM_VALUES) + logprob / math.log(2)) for logprob in logprobs]
    return NUM_ATTRIBUTES * statistics.fmean(known)
