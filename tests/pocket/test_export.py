"""Exported slices, run by lm-eval's own tools, against our scorer on the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.data import chat_format
from harness.errors import SpecError
from harness.evals.export import PREFIX, export_slices
from harness.evals.items import load
from harness.evals.scoring import item_rows
from harness.pocket import pretrain
from harness.pocket.world import SLICES
from harness.spec import EvalSpec, EvalTask, PocketItems
from tests.data import tiny
from tests.evals import small
from tests.pocket.tiny import TINY_WORLD, tiny_base, tiny_experiment

NAMES = (
    "cloze_known",
    "choice_unasked",
    "raw_first",
    "prose",
    "question_short",
    "follow_up",
    "style",
    "over_refusal",
    "reversal",
)
NUM_ITEMS = 24


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    pretrain.build(tiny_base(), folder, lambda **progress: None)
    return folder


def _task(name: str) -> EvalTask:
    info = SLICES[name]
    return EvalTask(
        suite="pocket", name=name, kind=info.kind, measure=info.measure, primary=False, chat=info.chat, num_items=None,
        source=PocketItems(world=TINY_WORLD, slice=name, max_items=NUM_ITEMS), max_new_tokens=info.max_new_tokens,
    )  # fmt: skip


def test_exported_slices_score_the_same_in_lm_evals_own_tools(built: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(built).eval(), AutoTokenizer.from_pretrained(built)
    chat = chat_format(tokenizer, tiny_experiment().spec.data)
    written = export_slices(TINY_WORLD, tmp_path / "tasks", chat, NAMES, max_items=NUM_ITEMS)
    assert [path.stem for path in written] == list(NAMES)
    theirs: Any = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu"),
        tasks=[PREFIX + name for name in NAMES],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    spec = EvalSpec(tasks=tuple(map(_task, NAMES)), items_seed=0, val_share=0.0, dtype="float32", max_length=128)
    ours: dict[tuple[str, str], float | None] = {}
    for row in item_rows(model, chat, spec, batch_size=8):
        if row.metric in ("acc", "exact_match", "bits_per_byte"):
            ours[(row.task, row.item_id)] = row.value
    for name in NAMES:
        samples = theirs["samples"][PREFIX + name]
        assert len(samples) == len(load(_task(name))) == len([key for key in ours if key[0] == name])
        if name == "prose":
            texts = [sample["doc"]["text"] for sample in samples]
            weights = [len(text.encode()) for text in texts]
            mean = sum(
                weight * float(ours[(name, sample["doc"]["id"])] or 0)
                for weight, sample in zip(weights, samples, strict=True)
            ) / sum(weights)
            # float32 sums of a hundred terms, added in another order
            assert theirs["results"][PREFIX + name]["bits_per_byte,none"] == pytest.approx(mean, abs=1e-4)
            continue
        metric = "exact_match" if SLICES[name].kind == "generate" else "acc"
        for sample in samples:
            assert float(sample[metric]) == ours[(name, sample["doc"]["id"])], (name, sample["doc"])


def test_lm_eval_accepts_the_answers_that_our_scorer_accepts(tmp_path: Path, built: Path) -> None:
    from lm_eval.api.registry import get_metric

    from harness.evals.metrics import METRICS

    chat = chat_format(AutoTokenizer.from_pretrained(built), tiny_experiment().spec.data)
    exact_match: Any = get_metric("exact_match")
    for name in ("question_short", "style", "json_format", "refusal"):
        (file,) = export_slices(TINY_WORLD, tmp_path, chat, [name], max_items=10)
        (metric,) = yaml.safe_load(file.read_text())["metric_list"]
        options = {key: value for key, value in metric.items() if key != "metric"}
        for line in file.with_suffix(".jsonl").read_text().splitlines():
            document = json.loads(line)
            for reference in document["references"][:3]:
                for said in (
                    reference,
                    reference.upper(),
                    f" {reference}. ",
                    f'"{reference}',
                    f"\n\t{reference}.\n",
                    f"{reference} x",
                    "",
                    "!",
                ):
                    given = {"predictions": [said] * len(document["references"]), "references": document["references"]}
                    theirs = float(exact_match(**given, **options)["exact_match"] > 0)
                    assert theirs == METRICS["generate"](document, [small.answer(said)])["exact_match"], (name, said)


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({}, ["<|im_end|>", "<eos>"]),
        ({"markers": "text"}, ["<eos>", "<|im_end|>"]),
        ({"template": "gemma"}, ["<eos>", "<end_of_turn>"]),
        ({"template": "plain"}, ["<eos>"]),
    ],
)
def test_exported_chat_answers_end_at_stop_tokens_or_at_the_text_of_an_end_of_turn(
    changes: dict[str, Any], stops: list[str], tmp_path: Path
) -> None:
    (file,) = export_slices(TINY_WORLD, tmp_path, tiny.chat(**changes), ["style"], max_items=2)
    assert yaml.safe_load(file.read_text())["generation_kwargs"]["until"] == stops


@pytest.mark.parametrize("changes", [{"markers": "text"}, {"tok": tiny.tokenizer((*tiny.CHATML_MARKERS, " is "))}])
def test_exported_files_hold_what_was_typed_and_no_marks(changes: dict[str, Any], tmp_path: Path) -> None:
    names = [name for name, info in SLICES.items() if info.chat]
    plain, marked = (
        export_slices(TINY_WORLD, tmp_path / name, chat, names, max_items=4)
        for name, chat in (("plain", tiny.chat()), ("marked", tiny.chat(**changes)))
    )
    for one, other in zip(plain, marked, strict=True):
        rows = [list(map(json.loads, file.with_suffix(".jsonl").read_text().splitlines())) for file in (one, other)]
        assert rows[1] == rows[0]
    assert all("\ufdd0" not in file.read_text() for file in marked)


def test_export_writes_every_slice_and_refuses_unknown_ones(built: Path, tmp_path: Path) -> None:
    chat = chat_format(AutoTokenizer.from_pretrained(built), tiny_experiment().spec.data)
    written = export_slices(TINY_WORLD, tmp_path, chat, max_items=4)
    assert {path.stem for path in written} == set(SLICES)
    assert all(len(path.with_suffix(".jsonl").read_text().splitlines()) == 4 for path in written)
    with pytest.raises(SpecError, match="Did you mean 'prose'"):
        export_slices(TINY_WORLD, tmp_path, chat, ["prosa"])
