"""Acceptance bands: a number in its range passes, one outside fails, an unknown one never passes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from analysis import bands
from analysis.opened import open_sweep
from harness.errors import BadInputError
from harness.records.schema import EvalScores, Score, TrialResult
from tests.analysis import synthetic

BEFORE = {
    "cloze_high/acc": 0.99,
    "cloze_mid/acc": 0.80,
    "cloze_low/acc": 0.40,
    "cloze_unknown/acc": 1 / 12,
    "cloze_unasked/acc": 0.90,
    "question_asked/exact_match": 0.0,
    "question_unasked/exact_match": 0.0,
    "question_unasked/end_of_turn": 0.0,
    "arithmetic/acc": 0.99,
    "lists/acc": 0.95,
    "replace/acc": 0.92,
    "arithmetic_held_out/acc": 0.80,
}
AFTER = {"question_unasked/exact_match": 0.70, "question_unasked/end_of_turn": 1.0, "cloze_unasked/acc": 0.85}
HARSH = {"cloze_unasked/acc": 0.30}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    store, folder = synthetic.build(tmp_path_factory.mktemp("store"))
    return next(result for _, result in open_sweep(store, folder).finished)


def scores(values: dict[str, float | None]) -> EvalScores:
    """Return scores of 400 items each."""
    test = {f"pocket/{key}": Score(value=v, num_items=400, num_clusters=100, reason=None) for key, v in values.items()}
    return EvalScores(key="k", test=test, val={}, items_file="none")


def result(
    template: TrialResult, after: dict[str, float], before: dict[str, float | None] | None = None
) -> TrialResult:
    return template.model_copy(update={"before": scores({**BEFORE, **(before or {})}), "after": scores({**after})})


def failing(trained: dict[int, list[TrialResult]], harsh: dict[int, list[TrialResult]]) -> set[str]:
    return {band.name for band in bands.bands(trained, harsh) if not band.passed}


def sound(template: TrialResult) -> tuple[dict[int, list[TrialResult]], dict[int, list[TrialResult]]]:
    good, lost = result(template, AFTER), result(template, HARSH)
    return {world: [good, good] for world in (0, 1, 2)}, {world: [lost] for world in (0, 1, 2)}


def test_world_within_every_range_passes_every_band(template: TrialResult) -> None:
    assert failing(*sound(template)) == set()


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ({"cloze_high/acc": 0.90}, {}, "base: cloze, high tier"),
        ({"cloze_mid/acc": 0.99}, {}, "base: cloze, mid tier"),
        ({"cloze_low/acc": 0.05}, {}, "base: cloze, low tier"),
        ({"cloze_unknown/acc": 0.20}, {}, "base: cloze, unknown people (chance +- 2 SE)"),
        ({"question_asked/exact_match": 0.4}, {}, "base: questions answered in chat"),
        ({"question_unasked/end_of_turn": 0.5}, {}, "base: turns ended in chat"),
        ({"replace/acc": 0.50}, {}, "base: raw skills, seen instances"),
        ({"arithmetic_held_out/acc": 0.60}, {}, "base: raw skills, held-out instances"),
        ({}, {"question_unasked/end_of_turn": 0.9}, "default: turns ended"),
        ({}, {"question_unasked/exact_match": 0.60}, "default: unasked questions / base's cloze"),
        ({}, {"cloze_unasked/acc": 0.79}, "default: unasked people's cloze lost"),
        ({"replace/acc": None}, {}, "base: raw skills, seen instances"),
    ],
)
def test_number_outside_its_range_fails_its_band_alone(
    template: TrialResult, before: dict[str, float | None], after: dict[str, float], name: str
) -> None:
    _, harsh = sound(template)
    broken = result(template, {**AFTER, **after}, before)
    assert failing({world: [broken] for world in (0, 1, 2)}, harsh) == {name}


def test_harsh_run_that_does_not_forget_fails(template: TrialResult) -> None:
    trained, _ = sound(template)
    mild = {world: [result(template, {"cloze_unasked/acc": 0.80})] for world in (0, 1, 2)}
    assert failing(trained, mild) == {"harsh: unasked people's cloze lost"}


def test_band_is_a_mean_over_worlds_with_an_interval_over_them(template: TrialResult) -> None:
    answered = {0: (0.60, 0.70), 1: (0.80, 0.80), 2: (0.50, 0.50)}
    trained = {
        world: [result(template, {**AFTER, "question_unasked/exact_match": value}) for value in values]
        for world, values in answered.items()
    }
    found = {band.name: band for band in bands.bands(trained, sound(template)[1])}
    band = found["default: unasked questions / base's cloze"]
    shares = [0.65 / 0.9, 0.80 / 0.9, 0.50 / 0.9]
    assert list(band.by_world.values()) == pytest.approx(shares)
    assert band.value == pytest.approx(sum(shares) / 3)
    # t with 2 degrees of freedom: 4.303 standard errors
    sd = math.sqrt(sum((share - band.value) ** 2 for share in shares) / 2)
    assert band.interval[1] - band.value == pytest.approx(4.3027 * sd / math.sqrt(3), rel=1e-4)


def test_world_without_results_fails_and_is_not_left_out(template: TrialResult) -> None:
    trained, harsh = sound(template)
    found = bands.bands({**trained, 3: []}, harsh)
    assert all(math.isnan(band.value) and not band.passed for band in found if not band.name.startswith("harsh"))


def test_sweep_without_the_two_arms_is_refused(tmp_path: Path) -> None:
    store, folder = synthetic.build(tmp_path)
    with pytest.raises(BadInputError, match="must have default and harsh"):
        bands.judge(open_sweep(store, folder))
