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

    from harness.evals.metrics import Generation, generate

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
                    assert theirs == generate(document, [Generation(said, stopped=True)])["exact_match"], (name, said)


def test_export_writes_every_slice_and_refuses_unknown_ones(built: Path, tmp_path: Path) -> None:
    chat = chat_format(AutoTokenizer.from_pretrained(built), tiny_experiment().spec.data)
    written = export_slices(TINY_WORLD, tmp_path, chat, max_items=4)
    assert {path.stem for path in written} == set(SLICES)
    assert all(len(path.with_suffix(".jsonl").read_text().splitlines()) == 4 for path in written)
    with pytest.raises(SpecError, match="Did you mean 'prose'"):
        export_slices(TINY_WORLD, tmp_path, chat, ["prosa"])
