"""Floor and ceiling: hand-computed intervals, what is declared, and that it is said before anything is scored."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.stats

from analysis import stats
from analysis.context import Context
from analysis.extremes import all_extremes, declared_extremes, ends_of, measured_extremes
from analysis.opened import open_sweep
from analysis.sections import extremes as section
from experiments.pocket import EXPERIMENT, TASKS
from experiments.smollm2_135m_instruct import EXPERIMENT as SMOLLM2
from harness.engine import commands, extremes
from harness.engine.plan import Request, make_plan, outlook
from harness.errors import SpecError
from harness.records import result
from harness.records.schema import Score
from harness.spec import EvalTask, FileItems
from tests.analysis.synthetic import Plan, build
from tests.specs import pinned_spec


def task(name: str, kind: str = "multiple_choice", measure: str = "retained", suite: str = "mc") -> EvalTask:
    """Return a slice of a file."""
    return EvalTask(
        suite=suite,
        name=name,
        kind=kind,  # pyright: ignore[reportArgumentType]
        source=FileItems(sha256="ab" * 32, path="/items"),
        measure=measure,  # pyright: ignore[reportArgumentType]
        primary=True,
        chat=False,
        num_items=None,
        max_new_tokens=8 if kind in ("generate", "number") else 0,
    )


def share(right: int, of: int, chance: float | None = None) -> Score:
    """Return the score of some right items."""
    return Score(value=right / of, num_items=of, chance=chance)


@pytest.mark.parametrize(
    ("score", "ends"),
    [
        (share(30, 100, 0.25), ("floor",)),  # [.219, .396] contains .25
        (share(10, 100, 0.25), ("floor",)),  # [.055, .174] lies below it
        (share(40, 100, 0.25), ()),  # [.309, .498]
        (share(990, 1000, 0.25), ("ceiling",)),  # up to .9946
        (share(97, 100, 0.25), ()),  # up to .9897
        (share(0, 400), ("floor",)),
        (share(6, 400), ("floor",)),  # 1.5 %, as GSM8K at 135 M: from .0069
        (share(20, 400), ()),  # from .0326
        (share(2, 2, 0.5), ("floor", "ceiling")),  # [.342, 1]: two items tell it from neither
        (Score(value=None, num_items=0, chance=0.25), ()),
        (Score(value=0.5, num_items=0), ()),
    ],
)
def test_ends_follow_wilson_interval(score: Score, ends: tuple[str, ...]) -> None:
    assert ends_of(score) == ends
    if score.value is not None and score.num_items:
        interval = scipy.stats.binomtest(round(score.value * score.num_items), score.num_items).proportion_ci(
            method="wilson"
        )
        assert ("floor" in ends) == (interval.low <= (score.chance or 0.01))
        assert ("ceiling" in ends) == (interval.high > 0.99)


def test_ends_of_the_plain_score_would_miss_a_small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant without an interval takes 28 of 100 for more than guessing among four."""
    assert ends_of(share(28, 100, 0.25)) == ("floor",)
    monkeypatch.setattr(stats, "wilson", lambda right, of: (right / of, right / of))
    assert ends_of(share(28, 100, 0.25)) == ()


def test_measured_looks_at_primary_shares_and_leaves_what_training_teaches_its_floor() -> None:
    tasks = (task("arc"), task("asked", "generate", "learned"), task("prose", "perplexity", "fluency"), task("absent"))
    before = {
        "mc/arc/acc": share(25, 100, 0.25),
        "mc/arc/acc_norm": share(99, 100, 0.25),
        "mc/asked/exact_match": share(0, 100),
        "mc/prose/bits_per_byte": Score(value=0.999, num_items=100),
    }
    assert [(found.key, found.end) for found in measured_extremes(tasks, before)] == [("mc/arc", "floor")]
    before["mc/asked/exact_match"] = share(100, 100)
    assert [found.end for found in measured_extremes(tasks, before)] == ["floor", "ceiling"]


def test_all_extremes_name_a_slice_once_for_several_bases() -> None:
    floors = [{"mc/arc/acc": share(25, 100, 0.25)}, {"mc/arc/acc": share(26, 100, 0.25)}]
    found = all_extremes([task("arc")], (("arc", "floor", "small"), ("other", "floor", "x")), floors)
    assert [(one.source, one.why[:9]) for one in found] == [("declared", "small"), ("measured", "acc 0.250")]


def test_declared_extremes_match_a_file_in_any_suite() -> None:
    found = declared_extremes([task("gsm8k", suite="qa"), task("arc")], SMOLLM2.extremes)
    assert [(one.key, one.end) for one in found] == [("qa/gsm8k", "floor")]


def test_sentences_say_catalogue_and_declaration_once_and_then_what_was_measured() -> None:
    catalogued = task("gsm8k", "number", suite="skills").replace({"chat": True, "max_new_tokens": 256, "version": 1})
    own = task("gsm8k", "generate", suite="qa").replace({"chat": True})
    said = extremes.sentences((catalogued, own), SMOLLM2, None)
    assert [sentence.split(" ")[0] for sentence in said] == ["skills/gsm8k", "qa/gsm8k"]
    before = {"qa/gsm8k/exact_match": share(1, 100)}
    assert extremes.sentences((catalogued, own), SMOLLM2, before)[2:] == (
        "qa/gsm8k is at floor before training (exact_match 0.010 [0.002, 0.054] on 100 items): a fall cannot show "
        "there",
    )


def test_what_is_declared_of_a_base_without_scores_is_said_without_scipy() -> None:
    code = (
        "import sys; from experiments.pocket import EXPERIMENT; from harness.engine import extremes;"
        "said = extremes.sentences(EXPERIMENT.spec.evals.tasks, EXPERIMENT, None);"
        "print([m for m in ('scipy', 'statsmodels', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plan_names_what_the_pocket_world_declares(tmp_path: Path) -> None:
    made = make_plan(Request("epochs", panel="full", out=tmp_path))
    (sentence,) = [note for note in outlook(made, 1).notes if "cloze_unknown" in note]
    assert sentence.startswith("pocket/cloze_unknown is at floor before training (nobody told the base")
    assert not any("cloze_unknown" in note for note in outlook(make_plan(Request("epochs", out=tmp_path)), 1).notes)


def test_sweep_says_it_before_anything_is_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class LaunchedError(Exception):
        pass

    def launched(*_: object, **__: object) -> None:
        raise LaunchedError([record.getMessage() for record in caplog.records])

    monkeypatch.setattr(commands.launch, "launch", launched)
    with caplog.at_level(logging.WARNING), pytest.raises(LaunchedError, match="cloze_unknown is at floor"):
        commands.sweep(
            Request("epochs", panel="full", out=tmp_path), workers=1, retry_failed=False, budget=None, as_json=True
        )


def test_record_carries_what_is_declared_of_slices_asked(tmp_path: Path) -> None:
    record = make_plan(Request("epochs", panel="full", out=tmp_path)).record
    assert [name for name, _, _ in record.extremes] == ["cloze_unknown"]
    assert record.represented == EXPERIMENT.represented
    assert record.rates_found_by == {}
    assert make_plan(Request("epochs", out=tmp_path)).record.extremes == ()


def test_represented_slices_are_slices_and_none_is_raw_text() -> None:
    tasks = {one.key: one for one in TASKS}
    assert set(EXPERIMENT.represented) <= set(tasks)
    assert all(tasks[key].chat for key in EXPERIMENT.represented)


def test_represented_is_nothing_of_rows_from_elsewhere(tmp_path: Path) -> None:
    rows = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows.write_text((json.dumps({"messages": turns}) + "\n") * 600)
    record = make_plan(Request("epochs", data=str(rows), out=tmp_path)).record
    assert record.represented == record.adjacent == ()


def test_adjacent_that_is_represented_as_well_is_refused() -> None:
    near = EXPERIMENT.model_copy(update={"adjacent": ("pocket/cloze_known",)})
    assert extremes.declared(near)["adjacent"] == ("pocket/cloze_known",)
    fields = {name: getattr(EXPERIMENT, name) for name in type(EXPERIMENT).model_fields}
    with pytest.raises(ValueError, match=r"adjacent is .*, but must not name what represented does"):
        type(EXPERIMENT)(**fields | {"adjacent": EXPERIMENT.represented[:1]})


# -- val and test -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["method", "tune"])
@pytest.mark.parametrize("change", [{"evals.val_share": 0.0}, {"evals.val_share": 0}])
def test_choosing_without_val_items_is_refused(tmp_path: Path, name: str, change: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=r"evals\.val_share is 0, but must be above 0 in .* chooses on val items"):
        make_plan(Request(name, set=json.dumps(change), out=tmp_path))


def test_sweep_that_chooses_nothing_needs_no_val_items(tmp_path: Path) -> None:
    made = make_plan(Request("learning_rate", set='{"evals.val_share": 0.0}', out=tmp_path))
    assert {trial.spec.evals.val_share for trial in made.record.trials} == {0.0}


@pytest.mark.parametrize(
    "change",
    [
        {"probes.during": ["qa/small"], "train.eval_every": 1},
        {"train.early_stopping_on": "qa/small/acc", "train.early_stopping_patience": 1, "train.eval_every": 1},
    ],
)
def test_watching_scores_without_val_items_is_refused(change: dict[str, object]) -> None:
    spec = pinned_spec().replace({"evals.val_share": 0.0})
    with pytest.raises(SpecError, match=r"evals\.val_share is 0"):
        spec.replace(change)


# -- the report -------------------------------------------------------------------------------------------------------


def test_report_names_declared_and_measured_ends(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(arms=("equal_epochs",), values=(25, 50), seeds=(0,), scale=0.25))
    path = store.sweep(folder) / "sweep.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"extremes": [["addition", "floor", "<b>small</b>"]]}))
    finished = store.trial(record["trials"][0]["trial_id"])
    standing = result.read(finished)
    assert standing is not None
    low = standing.before.model_copy(
        update={"key": "another", "test": standing.before.test | {"people/cloze/acc": share(20, 80, 0.25)}}
    )
    (finished / "result.json").write_text(standing.model_copy(update={"before": low}).model_dump_json())
    found = section.compute(Context(open_sweep(store, folder)))
    assert not isinstance(found, str)
    rows = {(row["key"], row["end"], row["source"]): row["why"] for row in found.content["rows"]}
    assert rows["skills/addition", "floor", "declared"] == "<b>small</b>"
    assert rows["people/cloze", "floor", "measured"] == "acc 0.250 [0.168, 0.355] on 80 items, guessing 0.250"
    assert "people/question" not in {key for key, end, _ in rows if end == "floor"}
    assert b"cannot_show" in section.files(found)["extremes.csv"]
