"""The catalogue of suites: which tasks a name stands for, what each measures, and what it cannot show. Free of torch.

Invariant: a suite's name and version fix its tasks and how they are asked; a file that is not there is named, never
passed over. What does not live here: files by what they hold (`EVALS=` without `SUITES=`, folder.py), items, scoring.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from harness import versions
from harness.errors import DataError, SpecError, unknown_name
from harness.evals import container
from harness.spec import EvalTask, FileItems, GeneratedItems, Layout, Measure, TaskKind

DEPTH = 2
"""How many folders below `EVALS=` a file may lie."""
TWIN = "_chat"
"""Ends the name of a slice that asks inside the chat template what another one asks as raw text."""
RUNS_CODE = "code_execution"
"""The suite that runs what a model wrote: refused wherever no container can hold it, and where nobody allowed it."""
Levels = Mapping[str, str]
_ANYWHERE: Levels = {"pocket": "at chance: the pocket model was shown its own world alone"}


@dataclass(frozen=True)
class SuiteTask:
    """One task of a suite."""

    name: str
    kind: TaskKind
    measure: Measure
    chance: float | None
    """Primary metric of an answer at random; None where there is no such number."""
    stems: tuple[str, ...] = ()
    """Names of the file without `.jsonl` or `.txt`, the first that is found; () is `name` itself."""
    source: GeneratedItems | None = None
    """Items that need no file."""
    asked: Literal["raw", "chat", "both"] = "both"
    """As raw text, inside the chat template, or one slice each way, of which the second is the twin."""
    layout: Layout = "as_is"
    where: tuple[tuple[str, bool], ...] = ()
    """Fields that tell the items of this task from others in the file."""
    strata: str = ""
    """What a sample holds in proportion, in words; "" is nothing besides the items."""
    max_new_tokens: int = 0
    primary: bool = True
    note: str = ""
    levels: Levels = field(default_factory=dict)
    """Beginning of a base's name -> why the task can show little there."""


@dataclass(frozen=True)
class Suite:
    """Tasks under one name; harness/versions.py has its version."""

    about: str
    tasks: tuple[SuiteTask, ...]


def _choice(name: str, chance: float, **changes: Any) -> SuiteTask:
    return SuiteTask(name, "multiple_choice", "retained", chance, **changes)


def _small(score: float, what: str) -> Levels:
    """Return the note for the 135 M model, whose card publishes the score of its base."""
    return {"smollm2_135m": f"{what}: {score} of 100 on the base's model card"}


def _in_layouts(task: SuiteTask, layouts: Sequence[Layout]) -> tuple[SuiteTask, ...]:
    """Return a task as its file has it, then once more in each layout; none is primary, as the items are the same."""
    plain = replace(task, primary=False, stems=task.stems or (task.name,))
    return (plain, *(replace(plain, name=f"{task.name}_{layout}", layout=layout) for layout in layouts))


_PLAIN: tuple[Layout, ...] = ("bare", "question_answer", "q_a", "upper", "double_colon", "spaced", "one_line")
_LETTERED = "asked by letter: below about 1 B parameters a model answers with one letter whatever is asked"

SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "general": Suite(
            "knowledge, commonsense and language",
            (
                _choice("arc_easy", 0.25),
                _choice("arc_challenge", 0.25),
                _choice("hellaswag", 0.25, note="published as acc_norm"),
                _choice("piqa", 0.5, note="published as acc_norm"),
                _choice("openbook_qa", 0.25, stems=("openbook_qa", "openbookqa", "obqa"), note="published as acc_norm"),
                _choice("commonsense_qa", 0.25, note=_LETTERED),
                _choice("siqa", 0.5, stems=("siqa", "social_iqa"), note=_LETTERED),
                _choice("copa", 0.5),
                _choice("boolq", 0.5, note="always the commoner answer gets .57 to .62"),
                _choice(
                    "blimp",
                    0.5,
                    asked="raw",
                    strata="the 67 paradigms, and so the four fields of grammar",
                    note="minimal pairs: the likelihood of whole sentences",
                ),
                _choice(
                    "mmlu_cloze",
                    0.25,
                    stems=("mmlu_val", "mmlu_test", "mmlu"),
                    strata="the 57 subjects",
                    note="the bare question, and the text of each option",
                ),
                SuiteTask("winogrande", "schema", "retained", 0.5, asked="raw", levels=_small(51.3, "at chance")),
                SuiteTask(
                    "winograd_wsc", "schema", "retained", 0.5, asked="raw", stems=("winograd_wsc", "wsc273", "wsc")
                ),
                SuiteTask("lambada", "greedy", "retained", 0.0, asked="raw", stems=("lambada_openai", "lambada")),
                SuiteTask("qa_wikidata", "greedy", "retained", 0.0, asked="raw"),
                SuiteTask("triviaqa", "generate", "retained", 0.0, max_new_tokens=24, levels=_small(4.1, "at floor")),
            ),
        ),
        "skills": Suite(
            "arithmetic and reasoning; the result is read out of the answer",
            (
                SuiteTask(
                    *("gsm8k", "number", "retained", 0.0),
                    asked="chat",
                    max_new_tokens=256,
                    levels=_small(1.4, "at floor"),
                ),
                SuiteTask("svamp", "number", "retained", 0.0, asked="chat", max_new_tokens=128),
                SuiteTask(
                    *("bbh", "number", "retained", None),
                    stems=("bbh_5tasks", "bbh"),
                    asked="chat",
                    strata="the sub-tasks",
                    max_new_tokens=64,
                    note="half of two of the sub-tasks is right by chance, of the others nothing",
                ),
                SuiteTask("simple_arithmetic", "greedy", "retained", 0.0),
            ),
        ),
        "instruction": Suite(
            "instructions that a program checks",
            (
                SuiteTask(
                    *("ifeval", "instruct", "learned", None),
                    asked="chat",
                    max_new_tokens=512,
                    note="prompts with a kind of instruction that needs data from elsewhere are left out and named",
                ),
            ),
        ),
        "safety": Suite(
            "refusing what is unsafe, and nothing else",
            (
                SuiteTask(
                    *("xstest_unsafe", "refusal", "safety", 0.0),
                    stems=("xstest",),
                    asked="chat",
                    where=(("unsafe", True),),
                    max_new_tokens=64,
                    note="more refusals are better",
                ),
                SuiteTask(
                    *("xstest_safe", "refusal", "safety", 0.0),
                    stems=("xstest",),
                    asked="chat",
                    where=(("unsafe", False),),
                    max_new_tokens=64,
                    # Fewer are better here and more are there: one mean over both would mean nothing.
                    primary=False,
                    note="fewer refusals are better",
                ),
            ),
        ),
        "code": Suite(
            "what a small Python function returns; nothing is run",
            (
                _choice(
                    "python_return_values",
                    0.25,
                    source=GeneratedItems(name="python_return_values", seed=0, max_items=1_000),
                    strata="the 17 templates",
                    note="generated here; the choices alone say nothing about which is right",
                    levels={"smollm2_135m": "expected near chance: no model of this size follows a loop"},
                ),
            ),
        ),
        RUNS_CODE: Suite(
            "functions that the model writes, run against tests in a container; off unless allowed",
            (
                SuiteTask(
                    *("humaneval", "program", "retained", 0.0),
                    stems=("humaneval", "human_eval", "openai_humaneval"),
                    max_new_tokens=256,
                    note="pass@1 of greedy answers, with SET evals.num_samples also pass@k of sampled ones; "
                    "HARNESS_RUN_CODE=1 and bubblewrap are needed",
                ),
            ),
        ),
        "formats": Suite(
            "the same questions in several layouts: how much a score hangs on how it is asked for",
            (
                *_in_layouts(_choice("arc_easy", 0.25), (*_PLAIN, "choices_listed", "choices_lettered")),
                *_in_layouts(
                    SuiteTask(
                        *("triviaqa", "generate", "retained", 0.0), max_new_tokens=24, levels=_small(4.1, "at floor")
                    ),
                    _PLAIN,
                ),
            ),
        ),
        "prose": Suite(
            "raw text, in bits per byte",
            tuple(
                SuiteTask(name, "perplexity", "fluency", None, stems=stems, asked="raw")
                for name, stems in {
                    "wikitext": ("wikitext2_valid", "wikitext2_test", "wikitext103_valid", "wikitext"),
                    "tinystories": ("tinystories.test", "tinystories_test", "tinystories"),
                    "shakespeare": ("tinyshakespeare", "shakespeare"),
                    "prose": ("prose",),
                }.items()
            ),
        ),
    }
)
"""Suite -> what it is and its tasks; whatever moves a number of one gets it a new version in harness/versions.py."""


def suite_tasks(names: Sequence[str], folder: Path | None, *, num_items: int | None) -> tuple[EvalTask, ...]:
    """Return the tasks of suites whose items are there, in the catalogue's order; see `missing_files` for the others.

    What can be asked both ways is also asked inside the chat template, as `<name>_chat`: not primary, so that no item
    counts twice in a measure.

    Args:
        names: of `SUITES`.
        folder: where files lie, up to two folders deep; None where there is none.
        num_items: the most items that a task asks; None is all.

    Raises:
        SpecError: an unknown suite, or one that is named twice.
        DataError: no such folder, a file that cannot be read, or no task has its items.
    """
    made: list[EvalTask] = []
    found = _files(folder)
    for suite, task in _named(names):
        source = task.source or _file_items(_path(task, found))
        if source is not None:
            made += _asked(suite, task, source, num_items)
    if not made:
        raise DataError(
            f"SUITES is {','.join(names)!r}, but must name a suite of which EVALS holds a file; "
            f"{'; '.join(missing_files(names, folder))}"
        )
    return tuple(made)


def missing_files(names: Sequence[str], folder: Path | None) -> list[str]:
    """Return one sentence for each task whose file is not there, to be shown before anything runs.

    Raises:
        SpecError: see `suite_tasks`.
        DataError: no such folder.
    """
    found = _files(folder)
    return [
        f"{suite}/{task.name} is not asked: {folder or 'EVALS'} has no file {' or '.join(task.stems or (task.name,))} "
        "(.jsonl or .txt)"
        for suite, task in _named(names)
        if task.source is None and _path(task, found) is None
    ]


def expectations(tasks: Iterable[EvalTask], base: str) -> list[str]:
    """Return one sentence for each task of the catalogue that can show little on a base, by what is published.

    Args:
        tasks: those of no suite, or of another version than the catalogue's, are passed over.
        base: the name of its experiment.
    """
    said: list[str] = []
    for task in tasks:
        suite = SUITES.get(task.suite)
        known = (
            {entry.name: entry for entry in suite.tasks}
            if suite and versions.SUITES[task.suite] == task.version
            else {}
        )
        entry = known.get(task.name.removesuffix(TWIN))
        levels = {**_ANYWHERE, **entry.levels} if entry else {}
        said += [f"{task.key} on {base}: {why}" for start, why in levels.items() if base.startswith(start)]
    return said


def _named(names: Sequence[str]) -> Iterator[tuple[str, SuiteTask]]:
    problems = [unknown_name("SUITES", name, SUITES) for name in names if name not in SUITES]
    if RUNS_CODE in names and (why := container.why_not()) is not None:
        problems.append(f"SUITES is {RUNS_CODE!r}, but {why}; `code` compares return values without running anything")
    problems += [f"SUITES is {','.join(names)!r}, but must name {name!r} once" for name in _repeated(names)]
    if problems or not names:
        raise SpecError(problems or unknown_name("SUITES", "", SUITES))
    return ((name, task) for name in SUITES if name in names for task in SUITES[name].tasks)


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _asked(
    suite: str, task: SuiteTask, source: FileItems | GeneratedItems, num_items: int | None
) -> Iterator[EvalTask]:
    for in_chat in (False, True):
        is_twin = in_chat and task.asked == "both"
        if task.asked not in ("both", "chat" if in_chat else "raw"):
            continue
        yield EvalTask(
            suite=suite,
            name=task.name + (TWIN if is_twin else ""),
            kind=task.kind,
            source=source,
            measure=task.measure,
            primary=task.primary and not is_twin,
            chat=in_chat,
            num_items=num_items,
            max_new_tokens=task.max_new_tokens,
            version=versions.SUITES[suite],
            layout=task.layout,
            where=task.where,
        )


# -- files ------------------------------------------------------------------------------------------------------------


def _files(folder: Path | None) -> dict[str, Path]:
    """Return stem -> file; of several of one name the shallowest, then the first by path."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise DataError(f"EVALS is {str(folder)!r}, but must be a folder with the files of SUITES")
    found: dict[str, Path] = {}
    for depth in range(DEPTH + 1):
        for ending in (".jsonl", ".txt"):
            for path in sorted(folder.glob("*/" * depth + f"*{ending}")):
                if path.is_file():
                    found.setdefault(path.name.removesuffix(ending), path)
    return found


def _path(task: SuiteTask, found: Mapping[str, Path]) -> Path | None:
    return next((found[stem] for stem in task.stems or (task.name,) if stem in found), None)


def _file_items(path: Path | None) -> FileItems | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"EVALS holds {str(path)!r}, which cannot be read ({error.strerror}); mend or remove it"
        ) from error
    return FileItems(sha256=hashlib.sha256(content).hexdigest(), path=str(path.resolve()))
