"""Fields of probes and new tasks: neutral where unused, in the fingerprint where used, refused where meaningless."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from harness import versions
from harness.errors import SpecError
from harness.identity import behaviours_of, canonical, trial_id
from harness.spec import SAMPLED, EvalTask, QLoraConfig, TrialSpec
from harness.spec.metrics import (
    BINARY_METRICS,
    LOWER_IS_BETTER,
    METRICS_OF,
    PANEL_METRICS,
    UNDIRECTED,
    metrics_of,
    sampled_metrics,
)
from tests.specs import pinned_spec

KEY = "mc/arc"
STOPPING = {"train.early_stopping_patience": 2, "train.eval_every": 5, "probes.during": [KEY]}


def test_probes_that_ask_nothing_are_not_in_the_fingerprint() -> None:
    assert "probes" not in canonical(pinned_spec())
    assert behaviours_of(pinned_spec()) == versions.BEHAVIOURS


@pytest.mark.parametrize(
    ("changes", "behaviour"),
    [
        ({"probes.during": [KEY], "train.eval_every": 5}, "probe.during"),
        ({"probes.drift": "on"}, "probe.drift"),
        ({"probes.interpolation": [0.0, 0.5, 1.0]}, "probe.interpolation"),
    ],
)
def test_probe_enters_the_fingerprint_with_its_version_where_used(
    changes: dict[str, Any], behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = pinned_spec().replace(changes)
    before = trial_id(spec)
    assert set(behaviours_of(spec)) - set(versions.BEHAVIOURS) == {behaviour}
    monkeypatch.setitem(versions.PROBES, behaviour.partition(".")[2], 99)
    assert trial_id(spec) != before
    assert trial_id(pinned_spec().replace({"seed": 1})) == trial_id(pinned_spec())


def test_catalogue_suite_enters_the_fingerprint_with_its_version_where_used(monkeypatch: pytest.MonkeyPatch) -> None:
    task = pinned_spec().evals.tasks[0].replace({"suite": "general"})
    own, shipped = (
        pinned_spec().replace({"evals.tasks": [task.model_dump(mode="json") | {"version": v}]}) for v in (0, 1)
    )
    ids = trial_id(own), trial_id(shipped)
    assert set(behaviours_of(shipped)) - set(behaviours_of(own)) == {"suite.general"}
    monkeypatch.setitem(versions.SUITES, "general", 99)
    assert trial_id(own) == ids[0]  # a folder of one's own may have that name
    assert trial_id(shipped) != ids[1]


REFUSED = [
    ({"probes.during": ["mc/arcs"], "train.eval_every": 5}, r"'mc/arcs', but must name tasks.*Did you mean 'mc/arc'"),
    ({"probes.during": [KEY]}, "where train.eval_every is 0"),
    ({"probes.during": [KEY], "train.eval_every": 5, "evals.val_share": 0.0}, "where evals.val_share is 0"),
    ({"probes.interpolation": [0.5, 0.5]}, "must not repeat"),
    ({"probes.interpolation": [1.5]}, "less than or equal to 1"),
    (STOPPING | {"train.early_stopping_on": "mc/arc/ac"}, "must end in one of acc, acc_norm"),
    (STOPPING | {"train.early_stopping_on": "mc/arc/acc", "probes.during": []}, "a task in probes.during"),
    ({"train.early_stopping_on": "mc/arc/acc"}, "must be None without train.early_stopping_patience"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_probe_without_room_is_refused_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        pinned_spec().replace(changes)


def test_early_stopping_on_a_metric_of_a_watched_task_is_taken() -> None:
    spec = pinned_spec().replace(STOPPING | {"train.early_stopping_on": "mc/arc/acc"})
    assert spec.train.early_stopping_on == "mc/arc/acc"


def test_interpolation_over_a_four_bit_base_is_refused() -> None:
    config = QLoraConfig(rank=4, alpha=8.0, target_modules="all_linear")
    with pytest.raises(SpecError, match="no weights to mix"):
        pinned_spec().replace({"method": config, "probes.interpolation": [0.5]})


def _task(kind: str, **changes: Any) -> EvalTask:
    plain = pinned_spec().evals.tasks[0].model_dump() | {"kind": kind, "max_new_tokens": 8}
    return EvalTask(**(plain | changes))


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("open", {"max_new_tokens": 0}, "max_new_tokens must be positive"),
        ("multiple_choice", {}, "max_new_tokens must be positive"),
        ("multiple_choice", {"max_new_tokens": 0, "panel": "behaviour"}, "it writes no answer"),
        ("refusal", {}, "must say whether unsafe is true or false"),
        ("refusal", {"where": (("unsafe", 1),)}, "must say whether unsafe is true or false"),
        ("open", {"where": (("a", 1), ("a", 2))}, "must name a field once"),
        ("perplexity", {"max_new_tokens": 0, "typo_rate": 0.5}, "it asks no question"),
        (
            "open",
            {"num_samples": 4},
            "num_samples is 4, but must be 0 for kind 'open': only answers of kinds generate,",
        ),
        ("instruct", {"num_samples": 2}, "must be 0 for kind 'instruct'"),
        ("refusal", {"where": (("unsafe", True),), "num_samples": 2}, "must be 0 for kind 'refusal'"),
        ("multiple_choice", {"max_new_tokens": 0, "num_samples": 2}, "must be 0 for kind 'multiple_choice'"),
        ("number", {"num_samples": 1}, "num_samples is 1, but must be 0 or from 2 to 64"),
        ("number", {"num_samples": 65}, "must be 0 or from 2 to 64"),
        ("number", {"num_samples": -2}, "must be 0 or from 2 to 64"),
        ("number", {"temperature": 0.5}, "must be 1.0 where num_samples is 0: nothing is sampled"),
        ("number", {"num_samples": 2, "temperature": 0.0}, "greater than 0"),
        ("number", {"num_samples": 2, "temperature": float("inf")}, "finite number"),
    ],
)
def test_task_that_means_nothing_is_refused(kind: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=sentence):
        _task(kind, **changes)


def test_metrics_of_a_task_follow_its_kind_its_items_and_its_panel() -> None:
    assert metrics_of(_task("refusal", where=(("unsafe", True),)))[0] == "refused"
    assert metrics_of(_task("refusal", where=(("unsafe", False),)))[0] == "over_refused"
    assert "over_refused" in LOWER_IS_BETTER
    assert "refused" not in LOWER_IS_BETTER
    assert metrics_of(_task("open", panel="behaviour")) == METRICS_OF["open"] + PANEL_METRICS


@pytest.mark.parametrize("kind", SAMPLED)
def test_samples_of_an_answer_that_is_right_or_wrong_add_metrics_behind_the_others(kind: str) -> None:
    plain = METRICS_OF[kind] + PANEL_METRICS
    assert metrics_of(_task(kind, panel="behaviour")) == plain
    more = {2: ("pass_1", "pass_2"), 7: ("pass_1", "pass_2", "pass_4"), 8: ("pass_1", "pass_2", "pass_4", "pass_8")}
    for num_samples, passes in more.items():
        found = metrics_of(_task(kind, panel="behaviour", num_samples=num_samples))
        assert found == (*plain, *passes, "unique_share")
    assert sampled_metrics(64)[-2:] == ("pass_64", "unique_share")
    assert not set(sampled_metrics(64)) & (LOWER_IS_BETTER | BINARY_METRICS)
    assert UNDIRECTED & set(sampled_metrics(64)) == {"unique_share"}


def test_samples_enter_the_fingerprint_with_their_version_where_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_task(**changes: Any) -> TrialSpec:
        return pinned_spec().replace({"evals.tasks": [_task("number", **changes).model_dump(mode="json")]})

    plain, sampled = with_task(), with_task(num_samples=4)
    (task,) = canonical(plain.evals)["tasks"]
    assert not {"num_samples", "temperature"} & set(task)
    assert set(behaviours_of(sampled)) - set(behaviours_of(plain)) == {"sampled"}
    assert "temperature" not in canonical(sampled.evals)["tasks"][0]
    specs = [plain, sampled, with_task(num_samples=8), with_task(num_samples=4, temperature=0.7)]
    ids = [trial_id(spec) for spec in specs]
    assert len(set(ids)) == len(ids)
    monkeypatch.setitem(versions.PROBES, "sampled", 99)
    assert [one == other for one, other in zip(ids, map(trial_id, specs), strict=True)] == [True, False, False, False]


def test_every_directed_or_binary_metric_is_one_of_some_task() -> None:
    known = {name for names in METRICS_OF.values() for name in names} | set(PANEL_METRICS) | {"over_refused"}
    assert known >= LOWER_IS_BETTER
    assert known >= BINARY_METRICS
