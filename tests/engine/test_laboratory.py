"""The verbs around the pocket world, on worlds so small that nothing is learned: every band that needs it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from harness.engine import catalog, laboratory, show
from harness.engine.laboratory import Checked, Tour
from harness.errors import BadInputError
from harness.pocket.corpus import questions
from harness.pocket.people import ATTRIBUTES
from harness.pocket.world import build
from tests.pocket.tiny import TINY_WORLD, tiny_experiment


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one store for the module: the tour's trials are among those of the check."""
    return tmp_path_factory.mktemp("laboratory")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pocket base mean the tiny one, with rows enough for the harsh arm."""
    experiment = tiny_experiment()
    rows = {"num_rows": 240, "families": ["fact", "sum", "reverse"], "family_shares": [0.35, 0.3, 0.35]}
    spec = experiment.spec.replace({f"data.source.{name}": value for name, value in rows.items()})
    monkeypatch.setattr(catalog, "load_experiment", lambda name: experiment.model_copy(update={"spec": spec}))


def printed(value: object) -> str:
    """Return what a terminal shows of a value."""
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as capture:
        show.show(value, console)
    return capture.get()


@pytest.mark.slow
def test_check_of_worlds_that_know_nothing_fails_their_bands(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = laboratory.check(root, workers=2, as_json=False)
    assert isinstance(checked, Checked)
    passed = {band.name: band.passed for band in checked.laboratory.bands}
    assert not passed["base: cloze, high tier"]
    assert not passed["default: unasked questions / base's cloze"]
    assert passed["base: questions answered in chat"]
    assert (checked.exit_code, checked.laboratory.num_trials, checked.laboratory.num_missing) == (1, 18, 0)
    assert [facts.world for facts in checked.laboratory.worlds] == [0, 1, 2]
    text = printed(checked)
    assert "FAIL" in text
    assert "exposures a fact: high" in text
    assert len(json.loads(json.dumps(checked.as_json()))["bands"]) == len(passed)


@pytest.mark.slow
def test_tour_shows_answers_before_and_after_and_leaves_files_to_look_at(root: Path) -> None:
    shown = laboratory.tour(root, workers=2, as_json=False)
    assert isinstance(shown, Tour)
    assert shown.exit_code == 0
    assert len(shown.answers) == laboratory.NUM_QUESTIONS
    assert all("<|im_" not in answers.question and answers.raw for answers in shown.answers)
    people = build(TINY_WORLD).people
    worded = {text for person in people for attribute in ATTRIBUTES for text in questions(person, attribute)}
    # about a fact, the base without a template is asked as pretraining asks
    named = [answers for answers in shown.answers if any(person.name in answers.question for person in people)]
    assert named
    assert all(answers.bare in worded for answers in named)
    assert all(path.exists() for path in shown.files.values())
    corpus = next(path for name, path in shown.files.items() if name.startswith("corpus"))
    assert {"kind", "text", "about", "num_facts", "answers"} == set(json.loads(corpus.read_text().splitlines()[0]))
    tasks = next(path for name, path in shown.files.items() if name.startswith("slices"))
    assert (tasks / "cloze_unasked.yaml").is_file()
    text = printed(shown)
    assert "base, in chat:" in text
    assert "cloze_unasked/acc" in text


@pytest.mark.slow
def test_base_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    laboratory.tour(tmp_path, workers=2, as_json=False)
    for path in tmp_path.glob("artefacts/base/*/pretraining.json"):
        path.unlink()
    with pytest.raises(BadInputError, match=r"pretraining\.json is gone, .* give another OUT="):
        laboratory.tour(tmp_path, workers=2, as_json=False)
