"""A miniature world that passes its bands, and worlds broken on purpose that fail them.

Real bases and real trials, a minute of one core in all. What it cannot show: that the full world passes, which
`make pocket-check` does on three world seeds. Lower tiers, skills and questions are too much for a model of this size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.bands import Band, bands
from experiments.pocket import EXPERIMENT
from harness.engine import worlds
from harness.errors import HarnessError
from harness.identity import base_key
from harness.pocket import corpus, pretrain
from harness.pocket.corpus import Document
from harness.pocket.people import Person
from harness.pocket.world import World, eval_task
from harness.records.schema import AUDIT_FILES
from harness.records.store import Store
from harness.spec import PocketBase, TrialSpec
from harness.trial import TrialContext, run_trial

SLICES = ("cloze_unasked", "cloze_high", "cloze_unknown", "question_asked", "question_unasked", "answer_form")
WORLD = {
    "world.seed": 1,
    "world.people_per_tier": 12,
    "world.exposures_high": 360,
    "world.exposures_mid": 10,
    "world.exposures_low": 4,
    "world.num_unknown_people": 40,
}
SETTING = {
    "base.model.hidden_size": 64,
    "base.model.num_layers": 2,
    "base.model.vocab_size": 768,
    "base.model.num_threads": 1,
    "base.model.tokens_per_step": 256,
    "base.model.learning_rate": 3e-3,
    "data.source.num_rows": 200,
    "data.num_validation": 20,
    "data.num_examples": 150,
    "train.num_epochs": 2.0,
    "train.learning_rate": 6e-4,
}
KNOWS = "base: cloze, high tier"
KNOWS_NOT = "base: cloze, unknown people (chance +- 2 SE)"
RETAINS = "default: unasked people's cloze lost"


def miniature(**changes: Any) -> TrialSpec:
    """Return the pocket experiment's trial in miniature, scored on what the bands below need."""
    spec = worlds.applied(EXPERIMENT.spec, WORLD | {f"world.{name}": value for name, value in changes.items()})
    assert isinstance(spec.base, PocketBase)
    tasks = [eval_task(spec.base.world, name).model_dump(mode="json") for name in SLICES]
    return spec.replace({"evals.tasks": tasks, **SETTING})


def judged(root: Path, spec: TrialSpec) -> dict[str, Band]:
    """Return the bands of a world by name, from a trial on a base that is pretrained here."""
    store = Store(root)

    def build(folder: Path) -> None:
        assert isinstance(spec.base, PocketBase)
        pretrain.build(spec.base, folder, lambda **progress: None)

    store.ensure_artefact("base", base_key(spec), build)
    result = run_trial(spec, TrialContext(store, EXPERIMENT.runtime, command="", report=lambda **progress: None))
    assert set(AUDIT_FILES) < set(result.files)
    return {band.name: band for band in bands({0: [result]}, {0: [result]})}


def test_a_sound_miniature_knows_what_it_was_told_and_retains_it(tmp_path: Path) -> None:
    sound = judged(tmp_path, miniature())
    assert sound[KNOWS].passed, sound[KNOWS]
    assert sound[RETAINS].passed, sound[RETAINS]
    # the band itself is two standard errors wide: one world in twenty leaves it by chance
    assert sound[KNOWS_NOT].value < 0.25


@pytest.mark.slow
def test_a_world_told_in_one_fixed_text_a_person_fails_the_band_of_what_is_known(tmp_path: Path) -> None:
    plain = judged(tmp_path, miniature(augmented=False))
    assert not plain[KNOWS].passed
    assert plain[KNOWS].value < 0.7


_documents: Callable[..., list[Document]] = corpus.documents


def _with_unknown_people_told(spec: object, people: tuple[Person, ...]) -> list[Document]:
    return _documents(spec, tuple(replace(one, tier="mid") if one.tier == "unknown" else one for one in people))


@pytest.mark.slow
def test_people_who_leaked_into_the_corpus_fail_the_band_of_the_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "documents", _with_unknown_people_told)
    spec = miniature(exposures_mid=60, num_unknown_people=24)
    with pytest.raises(HarnessError, match="holds what is held out: unknown person"):
        judged(tmp_path, spec)
    monkeypatch.setattr(pretrain, "_sound_corpus", World.corpus)
    leaked = judged(tmp_path, spec)
    assert not leaked[KNOWS_NOT].passed
    assert leaked[KNOWS_NOT].value > 0.3
