"""The verbs around the pocket world: a tour for a newcomer, and the check of its acceptance bands.

Invariant: everything shown was measured by trials of `sweeps/pocket_bands.py`, run by the engine like any others and
shared between the two verbs. What does not live here: the bands themselves (analysis/bands.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import bands
from analysis.bands import Laboratory
from analysis.opened import OpenedSweep, open_sweep
from harness.engine import commands, executor, jobs
from harness.engine.answers import Done
from harness.engine.executor import Executor
from harness.engine.jobs import ContinueJob, ExportJob
from harness.engine.resolve import Request
from harness.errors import EXIT_SOME_FAILED, HarnessError
from harness.identity import base_key
from harness.pocket.corpus import questions
from harness.pocket.people import ATTRIBUTES
from harness.pocket.phrasings import SHORT_SUFFIX, fill, person_slots, trained
from harness.pocket.world import FAMILIES, build
from harness.records.schema import Score, TrialResult
from harness.records.store import read_lines, write_atomic
from harness.spec import PocketBase, PocketData, WorldSpec

SWEEP = "pocket_bands"
ONE_OF_EACH = '{"seed": [0], "world.seed": [0]}'
NUM_QUESTIONS = 3
CONTINUED_TOKENS = 40
NUM_CONVERSATIONS = 20
"""Conversations of every family written out for a reader."""


@dataclass(frozen=True)
class Checked:
    """The bands, and how the trials behind them ended."""

    done: Done
    laboratory: Laboratory

    @property
    def exit_code(self) -> int:
        """0 when every band holds, 1 when one fails, else how the launch ended."""
        return self.done.exit_code or (0 if self.laboratory.passed else EXIT_SOME_FAILED)

    def as_json(self) -> dict[str, Any]:
        """Return the bands for machines."""
        lab = self.laboratory
        return {
            "passed": lab.passed,
            "num_trials": lab.num_trials,
            "num_missing": lab.num_missing,
            "bands": [{**vars(band), "passed": band.passed} for band in lab.bands],
            "worlds": [vars(facts) for facts in lab.worlds],
        }


@dataclass(frozen=True)
class Answers:
    """One question and what is said to it."""

    question: str
    bare: str
    """The question without a template, about a fact in the words in which pretraining asks."""
    raw: str
    """How the base continues that."""
    before: str
    """What the base says to it in the chat template."""
    after: str
    """What the trained model says there."""


@dataclass(frozen=True)
class Tour:
    """What a newcomer is shown."""

    done: Done
    base: PocketBase
    built: dict[str, Any]
    """`pretraining.json` of the base."""
    scores: dict[str, tuple[Score | None, Score | None, Score | None]]
    """Slice metric -> the base, after the default arm, after the harsh one."""
    answers: tuple[Answers, ...]
    files: dict[str, Path]

    @property
    def exit_code(self) -> int:
        """How the launch ended."""
        return self.done.exit_code

    def as_json(self) -> dict[str, Any]:
        """Return the tour for machines."""
        return {
            "base": json.loads(self.base.model_dump_json()),
            "built": {key: value for key, value in self.built.items() if key != "losses"},
            "scores": {key: [score and score.value for score in three] for key, three in self.scores.items()},
            "answers": [vars(answers) for answers in self.answers],
            "files": {name: str(path) for name, path in self.files.items()},
        }


def check(out: Path, *, workers: int | None, as_json: bool) -> Checked:
    """Run whatever trials of the check have no result yet, and judge the worlds.

    Raises:
        BadInputError: nothing was trained.
        DiskError: the output folder cannot be written.
    """
    request = Request(name=SWEEP, out=out)
    done = commands.sweep(request, workers=workers, retry_failed=False, budget=None, as_json=as_json)
    return Checked(done, bands.judge(_opened(done)))


def tour(out: Path, *, workers: int | None, as_json: bool) -> Tour:
    """Build the base if need be, fine-tune it once mildly and once harshly, and show what became of it.

    Raises:
        BadInputError: nothing was trained.
        DiskError: the output folder cannot be written.
        HarnessError: a trial failed, so that there is nothing to show.
    """
    request = Request(name=SWEEP, set=ONE_OF_EACH, out=out)
    done = commands.sweep(request, workers=workers, retry_failed=False, budget=None, as_json=as_json)
    default, harsh = (_only_result(done, arm) for arm in (bands.DEFAULT_ARM, bands.HARSH_ARM))
    base = default.spec.base
    assert isinstance(base, PocketBase)
    folder = done.plan.store.artefact("base", base_key(default.spec))
    built = bands.built_from(done.plan.store, default)
    alone = executor.local(1, done.plan.setting.experiment.runtime)
    try:
        answers = tuple(_answers(done, default, alone))
        files = _write_world(done, default, alone)
    finally:
        alone.stop()
    return Tour(
        done=done,
        base=base,
        built=built,
        scores={
            key: (default.before.test.get(key), _after(default, key), _after(harsh, key))
            for key in default.before.test
            if key.endswith(("/acc", "/exact_match", "/end_of_turn"))
        },
        answers=answers,
        files={"base model, a Hugging Face folder": folder, **files},
    )


def _opened(done: Done) -> OpenedSweep:
    return open_sweep(done.plan.store, done.plan.folder.name)


def _only_result(done: Done, arm: str) -> TrialResult:
    trial = next(trial for trial in _opened(done).trials if trial.planned.arm == arm)
    if trial.result is None:
        raise HarnessError(
            f"the {arm} trial {trial.planned.trial_id[:12]} is {trial.state} ({trial.cause}); see status"
        )
    return trial.result


def _after(result: TrialResult, key: str) -> Score | None:
    return result.after.test.get(key) if result.after else None


# -- answers ----------------------------------------------------------------------------------------------------------


def _answers(done: Done, result: TrialResult, alone: Executor) -> Iterator[Answers]:
    """Yield the fixed prompts of the trial with the base's continuation of the bare question beside them."""
    lines = read_lines(done.plan.store.trial(result.trial_id) / "samples.jsonl")
    before, after = (
        {str(line["prompt"]): str(line["answer"]) for line in lines if line["phase"] == phase}
        for phase in ("before", "after")
    )
    prompts = [prompt for prompt in before if prompt in after][:NUM_QUESTIONS]
    asked = [_question(prompt) for prompt in prompts]
    plain = _plain_wordings(result)
    bare = [plain.get(question, question) for question in asked]
    plan = done.plan
    runtime = plan.setting.experiment.runtime
    job = ContinueJob(result.spec, plan.store.root, runtime, tuple(bare), CONTINUED_TOKENS)
    raw = alone.submit(jobs.continue_texts, job).result()
    for prompt, question, text, continuation in zip(prompts, asked, bare, raw, strict=True):
        yield Answers(question, text, continuation, before[prompt], after[prompt])


def _plain_wordings(result: TrialResult) -> dict[str, str]:
    """Return every question about a fact as conversations ask it -> as pretraining does.

    So what the base does with it is what it was pretrained to do, and no matter of a wording that it never read.
    """
    source = result.spec.data.source
    assert isinstance(source, PocketData)
    return {
        fill(wording, person_slots(person, attribute)) + suffix: questions(person, attribute)[0]
        for person in build(source.world).people
        for attribute in ATTRIBUTES
        for wording in trained("fact")
        for suffix in ("", SHORT_SUFFIX)
    }


def _question(prompt: str) -> str:
    """Return the user's turn of a rendered pocket prompt."""
    return prompt.partition("user\n")[2].partition("<|im_end|>")[0]


# -- files ------------------------------------------------------------------------------------------------------------


def _write_world(done: Done, result: TrialResult, alone: Executor) -> dict[str, Path]:
    """Write what a world holds as files to look at, and return name -> path."""
    source = result.spec.data.source
    assert isinstance(source, PocketData)
    folder = done.plan.store.root / "pocket" / f"world-{source.world.seed}-{base_key(result.spec)[:8]}"
    files = {
        "corpus, in training order": folder / "corpus.jsonl",
        "people and what is true of them": folder / "people.jsonl",
        "conversations of every family": folder / "conversations.jsonl",
    }
    for path, rows in zip(files.values(), _world_rows(source.world), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    tasks = folder / "tasks"
    alone.submit(jobs.export_slices, ExportJob(source.world, result.spec, done.plan.store.root, tasks)).result()
    return {**files, "slices, as task files that lm-eval runs by itself": tasks}


def _world_rows(spec: WorldSpec) -> Iterator[list[dict[str, Any]]]:
    world = build(spec)
    yield [vars(document) for document in world.corpus()]
    yield [vars(person) for person in world.people]
    yield [row for name in FAMILIES for row in world.conversations((name,), NUM_CONVERSATIONS)]
