from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from nltk.translate import bleu_score
from torch import nn

from harness.data.example import Example
from harness.data.masks import PARTS
from harness.errors import ModelError
from harness.evals import divergence, drift, drift_texts, generation, sampling, weight_change
from harness.evals.drift import DriftRow, diversity, measure, self_bleu, token_means
from harness.evals.drift_texts import DriftText
from harness.evals.forward import evaluating
from harness.evals.generation import Decoded
from harness.evals.model_pair import ModelPair
from harness.methods import attach, quantisation
from harness.models import inspect_folder, load_model
from harness.spec import LoraConfig, QLoraConfig
from tests.evals import small
from tests.models import tiny

LORA = LoraConfig(rank=4, alpha=8.0, target_modules="all_linear")
USER, ASSISTANT, END = (PARTS.index(name) for name in ("user", "assistant", "end_of_turn"))


def example(number: int, prompt: int = 6, answer: int = 9) -> Example:
    """Return a row of one prompt and one answer, tokens made up."""
    ids = np.random.default_rng(number).integers(3, tiny.VOCAB, prompt + answer)
    parts = np.array([USER] * prompt + [ASSISTANT] * (answer - 1) + [END], dtype=np.uint8)
    return Example(f"row-{number}", ids, (parts != USER).astype(np.float32), parts)


ROWS = [example(number, 4 + number, 7 + 2 * number) for number in range(4)]


def neutral_spec(folder: Path, **changes: Any) -> Any:
    """Return an evaluation with a slice of raw text, all of it val items."""
    texts = [{"id": f"t{n}", "text": f"Once upon a time {n} dogs went to the sea."} for n in range(3)]
    return small.evals(
        small.task("perplexity", small.write_items(folder / "text.jsonl", texts)), **({"val_share": 0.99} | changes)
    )


def panel(tuned: nn.Module, base: nn.Module | None, spec: Any, rows: Sequence[Example] = ROWS, **changes: Any) -> Any:
    """Return the drift panel with 4 texts a set."""
    return measure(tuned, base, small.chat(), rows, spec, **({"num_texts": 4, "batch_size": 3} | changes))


def moved(model: Any, scale: float = 0.05, seed: int = 1) -> Any:
    """Move every weight a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


def values_of(rows: Sequence[DriftRow], text_set: str, metric: str, position: int | None = None) -> dict[str, float]:
    return {
        row.item_id: row.value
        for row in rows
        if (row.text_set, row.metric, row.position) == (text_set, metric, position)
    }


def reference(base: Any, tuned: Any, row: Example) -> dict[str, np.ndarray]:
    """Return what torch says of a row's answer tokens, from all logits in float64."""
    ids = torch.tensor(row.input_ids)[None]
    with torch.no_grad():
        p, q = (model(ids).logits[0].double().log_softmax(-1) for model in (base, tuned))
    forward = F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    reverse = F.kl_div(p, q, log_target=True, reduction="none").sum(-1)
    best = F.nll_loss(q, p.argmax(-1), reduction="none")
    entropy = torch.distributions.Categorical(logits=q).entropy()
    rows = {"kl_base_tuned": forward, "kl_tuned_base": reverse, "argmax_loss": best, "entropy_tuned": entropy}
    is_answer = np.isin(row.parts, [ASSISTANT, END])
    return {name: values[:-1].numpy()[is_answer[1:]] for name, values in rows.items()}


# -- divergence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [8192, 7])
def test_compared_equals_torchs_own_losses_whatever_the_slice(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "COLUMNS", columns)
    generator = torch.Generator().manual_seed(0)
    base, tuned = 3 * torch.randn(2, 40, 50, generator=generator)
    tokens = torch.arange(40)
    found = divergence.compared(base, tuned, tokens)
    p, q = base.double().log_softmax(-1), tuned.double().log_softmax(-1)
    expected = {
        "kl_base_tuned": F.kl_div(q, p, log_target=True, reduction="none").sum(-1),
        "kl_tuned_base": F.kl_div(p, q, log_target=True, reduction="none").sum(-1),
        "entropy_base": torch.distributions.Categorical(logits=base.double()).entropy(),
        "entropy_tuned": torch.distributions.Categorical(logits=tuned.double()).entropy(),
        "argmax_loss": F.nll_loss(q, p.argmax(-1), reduction="none"),
        "argmax_loss_base": -p.max(-1).values,
        "rank_base": torch.tensor([1.0 + sum(row > row[token]) for row, token in zip(p, tokens, strict=True)]),
    }
    assert set(found) == set(expected)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name].double(), rtol=1e-5, atol=1e-5)  # float32 softmax


def test_compared_one_bias_gives_the_hand_computed_divergence() -> None:
    # Four equally likely tokens, one of them made 3 times as likely: q = 1/2, 1/6, 1/6, 1/6.
    base = torch.zeros(1, 4)
    tuned = base + torch.tensor([math.log(3.0), 0.0, 0.0, 0.0])
    found = divergence.compared(base, tuned, torch.tensor([2]))
    assert found["kl_base_tuned"].item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-6)
    assert found["kl_tuned_base"].item() == pytest.approx(0.5 * math.log(2.0) + 0.5 * math.log(2 / 3), abs=1e-6)
    assert found["argmax_loss"].item() == pytest.approx(math.log(2.0), abs=1e-6)
    assert found["entropy_base"].item() == pytest.approx(math.log(4.0), abs=1e-6)


def test_compared_a_token_that_cannot_come_counts_for_nothing() -> None:
    masked = torch.tensor([[0.0, 0.0, -math.inf]])
    found = divergence.compared(masked, masked, torch.tensor([0]))
    assert found["kl_base_tuned"].item() == 0.0
    assert found["entropy_base"].item() == pytest.approx(math.log(2.0), abs=1e-6)


def test_compared_logits_that_are_not_finite_give_nan() -> None:
    broken = torch.tensor([[math.nan, 0.0, 0.0]])
    assert divergence.compared(torch.zeros(1, 3), broken, torch.tensor([0]))["kl_base_tuned"].isnan().all()


@pytest.mark.parametrize(("batch_size", "max_logits"), [(1, 2**24), (4, 2**24), (4, 5 * tiny.VOCAB)])
def test_of_texts_equals_torch_on_full_logits_for_any_batch(
    batch_size: int, max_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(divergence.MAX_LOGITS, "cpu", max_logits)
    base, tuned = small.llama(0), moved(small.llama(0))
    texts, _ = drift_texts.of_rows(ROWS, 4, 512)
    with torch.no_grad():
        found = divergence.of_texts(ModelPair(tuned, base), texts, batch_size=batch_size)
    for row, values in zip(ROWS, found, strict=True):
        for name, expected in reference(base, tuned, row).items():
            np.testing.assert_allclose(values[name], expected, rtol=2e-4, atol=1e-6)  # float32 against float64


# -- the panel --------------------------------------------------------------------------------------------------------


def faults(tuned: Any, base: Any, summary: Any, rows: Sequence[DriftRow]) -> list[str]:
    """Return what in a panel is not as torch computes it from full logits."""
    expected = [reference(base, tuned, row) for row in ROWS]
    bad = []
    for name in ("kl_base_tuned", "kl_tuned_base", "argmax_loss", "entropy_tuned"):
        mean = np.concatenate([values[name] for values in expected]).mean()
        if summary.values[f"answers/{name}"] != pytest.approx(mean, rel=2e-4):
            bad.append(f"mean {name}")
        items = values_of(rows, "answers", name)
        if any(
            items[row.row_id] != pytest.approx(v[name].mean(), rel=2e-4) for row, v in zip(ROWS, expected, strict=True)
        ):
            bad.append(f"items {name}")
    for position in (1, 6):
        held = values_of(rows, "answers", "kl_base_tuned", position)
        if any(held[row.row_id] != pytest.approx(v["kl_base_tuned"][position - 1], rel=2e-4)
               for row, v in zip(ROWS, expected, strict=True)):  # fmt: skip
            bad.append(f"position {position}")
    return bad


@pytest.fixture
def pair() -> tuple[Any, Any]:
    return moved(small.llama(0)), small.llama(0)


def test_panel_equals_torch_on_full_logits(pair: tuple[Any, Any], tmp_path: Path) -> None:
    assert faults(*pair, *panel(*pair, neutral_spec(tmp_path))) == []


def swapped(*arguments: Any) -> dict[str, torch.Tensor]:
    base, tuned, tokens = arguments
    return COMPARED(tuned, base, tokens)


def shifted(model: nn.Module, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return LOGITS(model, ids, rows, columns + 1)


def without_mask(row: Example) -> np.ndarray:
    return np.arange(len(row.input_ids)) > 0


COMPARED, LOGITS = divergence.compared, divergence._logits
BROKEN = {
    "arguments swapped": (divergence, "compared", swapped),
    "positions shifted by one": (divergence, "_logits", shifted),
    "mask ignored": (drift_texts, "_is_answer", without_mask),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_panel_broken_variants_are_caught(
    broken: str, pair: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BROKEN[broken])
    found = faults(*pair, *panel(*pair, neutral_spec(tmp_path)))
    assert any(fault.startswith("mean kl") for fault in found)


def test_panel_identical_models_drift_by_exactly_zero(tmp_path: Path) -> None:
    summary, rows = panel(small.llama(0), small.llama(0), neutral_spec(tmp_path))
    for text_set in drift.TEXT_SETS:
        for name in ("kl_base_tuned", "kl_tuned_base", "kl_base_tuned_first", "kl_tuned_base_rest"):
            assert summary.values[f"{text_set}/{name}"] == 0.0
        assert summary.values[f"{text_set}/argmax_loss"] == summary.values[f"{text_set}/argmax_loss_base"] > 0
    for name in ("distinct_1", "distinct_2", "unique", "self_bleu"):
        assert summary.values[f"samples/{name}_base"] == summary.values[f"samples/{name}_tuned"]
    assert summary.values["tuned_answers/unshifted"] == 1.0
    assert summary.values["weights/relative_change"] == 0.0
    assert not {f"weights/{name}" for name in drift.OF_CHANGED} & set(summary.values)
    assert summary.reasons == {f"weights/{name}": "no layer has changed" for name in drift.OF_CHANGED}
    assert all(math.isfinite(row.value) for row in rows if not row.metric.endswith("_rank"))


def test_panel_means_of_layers_are_those_of_its_rows_and_large_layers_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = attach(small.llama(0), LORA, seed=1)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name and "layers.0" in name:  # one block has changed
            torch.nn.init.normal_(parameter, 0.0, 3.0)
    summary, rows = panel(tuned, None, neutral_spec(tmp_path))
    for name in drift.OF_CHANGED:
        found = values_of(rows, "weights", name)
        changed = [value for layer, value in found.items() if "layers.0" in layer]
        assert len(found) == 2 * len(changed)
        assert summary.values[f"weights/{name}"] == pytest.approx(np.mean(changed))
    assert (summary.values["weights/num_intruders"] or 0) > 0
    monkeypatch.setattr(weight_change, "LARGEST_SIDE", 8)
    large, _ = panel(tuned, None, neutral_spec(tmp_path))
    assert large.reasons == {
        "weights/num_intruders": "7 of 7 changed layers have more than 8 outputs and inputs, too many to decompose"
    }
    assert "weights/num_intruders" not in large.values
    assert large.values["weights/effective_rank"] == summary.values["weights/effective_rank"]


def test_panel_one_bias_of_the_output_layer_gives_the_hand_computed_divergence(tmp_path: Path) -> None:
    base, tuned = small.llama(0, tie_word_embeddings=False), small.llama(0, tie_word_embeddings=False)
    for model in (base, tuned):  # every token equally likely, whatever the text
        nn.init.zeros_(model.lm_head.weight)
    tuned.lm_head.bias = nn.Parameter(torch.zeros(tiny.VOCAB))
    with torch.no_grad():
        tuned.lm_head.bias[17] = math.log(tiny.VOCAB - 1)  # q(17) = 1/2, the others share the rest
    summary, _ = panel(tuned, base, neutral_spec(tmp_path))
    V = tiny.VOCAB
    forward = math.log(2 / V) / V + (V - 1) / V * math.log(2 * (V - 1) / V)
    assert summary.values["neutral/kl_base_tuned"] == pytest.approx(forward, rel=1e-5)
    reverse = 0.5 * math.log(V / 2) + 0.5 * math.log(V / 2 / (V - 1))
    assert summary.values["neutral/kl_tuned_base"] == pytest.approx(reverse, rel=1e-5)


def test_panel_first_positions_and_the_rest_make_up_the_mean(pair: tuple[Any, Any], tmp_path: Path) -> None:
    values = panel(*pair, neutral_spec(tmp_path))[0].values
    num_first = sum(min(5, len(drift_texts.of_rows([row], 1, 512)[0][0].places)) for row in ROWS)
    num = values["answers/num_tokens"]
    ends = num_first * values["answers/kl_base_tuned_first"] + (num - num_first) * values["answers/kl_base_tuned_rest"]
    assert ends / num == pytest.approx(values["answers/kl_base_tuned"])


def test_panel_adapter_is_compared_with_the_base_under_it_and_left_as_it_was(tmp_path: Path) -> None:
    base = small.llama(0)
    tuned = attach(small.llama(0), LORA, seed=1)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    tuned.train()
    tuned.requires_grad_(False)
    torch.manual_seed(3)
    state, bits = torch.get_rng_state(), {name: p.clone() for name, p in tuned.named_parameters()}
    summary, rows = panel(tuned, None, neutral_spec(tmp_path))
    assert faults(tuned.eval(), base, summary, rows) == []
    assert torch.equal(state, torch.get_rng_state())
    assert not any(parameter.requires_grad for parameter in tuned.parameters())
    assert all(torch.equal(bits[name], p) for name, p in tuned.named_parameters())


def test_panel_leaves_modes_as_they_were(pair: tuple[Any, Any], tmp_path: Path) -> None:
    for model in pair:
        model.train()
        model.model.layers[0].eval()
    before = [[module.training for module in model.modules()] for model in pair]
    panel(*pair, neutral_spec(tmp_path))
    assert [[module.training for module in model.modules()] for model in pair] == before


def test_panel_four_bit_base_is_compared_in_its_own_layout(tmp_path: Path) -> None:
    config = QLoraConfig(rank=4, alpha=8.0, target_modules="all_linear")
    files = inspect_folder(tiny.write_folder(tmp_path / "model"))
    tuned = attach(load_model(files, "float32", "cpu", quantisation(config)), config, seed=1)
    packed = {name: p.data.clone() for name, p in tuned.named_parameters() if p.dtype == torch.uint8}
    assert packed
    rows = [example(number, 4, 6) for number in range(2)]
    summary, _ = panel(tuned, None, neutral_spec(tmp_path, max_length=64), rows)
    assert summary.values["answers/kl_base_tuned"] == 0.0  # B starts at 0
    assert all(torch.equal(p.data, packed[name]) for name, p in tuned.named_parameters() if name in packed)


def test_panel_bfloat16_models_are_compared_in_float32(tmp_path: Path) -> None:
    base, tuned = small.llama(0).bfloat16(), moved(small.llama(0)).bfloat16()
    summary, rows = panel(tuned, base, neutral_spec(tmp_path, dtype="bfloat16"))
    expected = [reference(base, tuned, row)["kl_base_tuned"] for row in ROWS]
    # A softmax in bfloat16 is off by 1 % and more; products in other batches round otherwise.
    assert summary.values["answers/kl_base_tuned"] == pytest.approx(np.concatenate(expected).mean(), rel=0.02)
    assert len(rows) > 0


def test_panel_unknown_sets_have_a_reason_and_no_value(pair: tuple[Any, Any], tmp_path: Path) -> None:
    summary, rows = panel(*pair, neutral_spec(tmp_path, val_share=0.0), rows=[])
    assert set(summary.reasons) == {"answers", "base_answers", "tuned_answers", "samples", "neutral"}
    assert summary.reasons["answers"] == drift_texts.NO_ROWS
    assert summary.reasons["neutral"] == drift_texts.NO_NEUTRAL
    assert {row.text_set for row in rows} == {"weights"}
    assert {key.split("/")[0] for key in summary.values} == {"weights"}


def test_panel_broken_weights_are_unknown_and_never_zero(pair: tuple[Any, Any], tmp_path: Path) -> None:
    with torch.no_grad():
        pair[0].model.layers[1].mlp.up_proj.weight.fill_(math.nan)
    summary, rows = panel(*pair, neutral_spec(tmp_path))
    for key in ("answers/kl_base_tuned", "neutral/argmax_loss", "samples/unique_tuned", "weights/relative_change"):
        assert summary.values[key] is None
        assert summary.reasons[key]
    assert all(math.isnan(value) for value in values_of(rows, "answers", "kl_base_tuned").values())


def test_panel_same_models_give_the_same_rows_twice(pair: tuple[Any, Any], tmp_path: Path) -> None:
    first, second = (panel(*pair, neutral_spec(tmp_path))[1] for _ in range(2))
    assert first == second


def test_panel_without_a_base_and_without_an_adapter_is_refused(pair: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="base is None"):
        panel(pair[0], None, neutral_spec(tmp_path))


def test_write_rows_file_gives_the_rows_back(pair: tuple[Any, Any], tmp_path: Path) -> None:
    _, rows = panel(*pair, neutral_spec(tmp_path))
    drift.write_rows(tmp_path / "drift.parquet", rows)
    held = pq.read_table(tmp_path / "drift.parquet").to_pylist()
    assert [DriftRow(**row) for row in held] == rows


# -- texts, classes, samples ------------------------------------------------------------------------------------------


def test_of_rows_positions_restart_at_every_answer() -> None:
    parts = np.array([USER, USER, ASSISTANT, ASSISTANT, END, USER, ASSISTANT, END], dtype=np.uint8)
    row = Example("two", np.arange(8), np.ones(8, dtype=np.float32), parts)
    (text,), (prompt,) = drift_texts.of_rows([row], 1, 512)
    assert text.places == (2, 3, 4, 6, 7)
    assert text.positions == (1, 2, 3, 1, 2)
    assert prompt.input_ids == (0, 1)


def test_of_rows_leaves_out_what_has_no_prompt_or_no_answer_within_reach() -> None:
    raw = Example("raw", np.arange(4), np.ones(4, dtype=np.float32), np.full(4, PARTS.index("text"), dtype=np.uint8))
    assert drift_texts.of_rows([raw, example(1, 6, 4)], 2, 6) == ([], [])


def test_of_rows_slow_tokenizer_takes_tokens_with_a_loss_weight() -> None:
    row = Example("slow", np.arange(5), np.array([0, 0, 1, 1, 0], dtype=np.float32))
    assert drift_texts.of_rows([row], 1, 512)[0][0].places == (2, 3)


def test_token_means_shift_classes_by_hand() -> None:
    values = {name: np.zeros(8) for name in divergence.MEASURES}
    values["rank_base"] = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 90.0])
    means = token_means("tuned_answers", values, np.arange(1, 9))
    assert (means["unshifted"], means["marginal"], means["shifted"]) == (0.5, 0.25, 0.25)
    assert "shifted" not in token_means("answers", values, np.arange(1, 9))


def test_diversity_by_hand() -> None:
    said = [[5, 6, 5], [5, 6, 5], [7], []]
    answers = [
        Decoded(tokens, stopped=tokens == [], stop_id=1 if not tokens else None, is_finite=True) for tokens in said
    ]
    # 1-grams: 5 6 5 5 6 5 7 and the stop token; 2-grams: 56 65 56 65; 3-grams: 565 565
    found = diversity(answers)
    assert found.pop("self_bleu") == pytest.approx(0.5)  # two are each other's copy, two share nothing
    assert found == {"distinct_1": 4 / 8, "distinct_2": 0.5, "distinct_3": 0.5, "unique": 0.75}
    broken = [Decoded([5], stopped=False, stop_id=None, is_finite=False)]
    assert all(math.isnan(value) for value in diversity(broken).values())


def test_self_bleu_is_nltks_and_by_hand() -> None:
    said = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9, 9, 9], [8, 1, 2, 3, 4, 5, 7, 7]]
    # nltk's default has no smoothing: every answer has a 4-gram of another's
    whole = [bleu_score.sentence_bleu(said[:at] + said[at + 1 :], said[at]) for at in range(3)]
    assert self_bleu(said) == pytest.approx(sum(whole) / 3)
    # 1-grams 3 of 4, 2-grams 2 of 3, 3-grams 1 of 2, 4-grams 0 of 1, smoothed to 1/2; both ways, equal lengths
    assert self_bleu([[1, 2, 3, 4], [1, 2, 3, 9]]) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)
    # shorter than its reference: 1 of 1, brevity exp(1 - 3/1); longer: 1 of 3, 0 of 2 (1/4), 0 of 1 (1/4)
    assert self_bleu([[5], [5, 6, 7]]) == pytest.approx((math.exp(-2) + (1 / 3 * 1 / 4 * 1 / 4) ** (1 / 3)) / 2)
    assert self_bleu([[5, 6], [7, 8]]) == 0.0
    assert self_bleu([[5, 6], [5, 6]]) == pytest.approx(1.0)
    assert math.isnan(self_bleu([[5, 6]]))


def test_drawn_tokens_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    draws = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    tokens = sampling.drawn(probabilities.log().expand(1000, 4), draws)
    counts = torch.bincount(tokens, minlength=4).double() / 1000
    torch.testing.assert_close(counts, probabilities.double(), atol=2e-3, rtol=0)  # a grid of 1000


def test_sampled_decode_an_answer_does_not_depend_on_its_batch() -> None:
    model = small.llama(0)
    prompts = [list(range(5, 5 + length)) for length in (3, 9, 6)]
    draws = np.random.default_rng(0).random((3, 12)).tolist()
    with evaluating(model, "float32"):
        together = sampling.sampled_decode(model, prompts, draws, stop_ids=[1], batch_size=3)
        alone = [
            sampling.sampled_decode(model, [prompt], [draw], stop_ids=[1], batch_size=1)[0]
            for prompt, draw in zip(prompts, draws, strict=True)
        ]
    assert together == alone
    assert len({tuple(answer.tokens) for answer in together}) == 3


def test_sampled_decode_drops_rows_that_ended_and_keeps_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stops = small.llama(0), range(1, 40)
    prompts = [list(range(5, 5 + length)) for length in (3, 9, 6, 4, 7, 5, 8, 3)]
    draws = np.random.default_rng(0).random((8, 24)).tolist()
    num_rows: list[int] = []
    logits = generation.selected_logits

    def counted(model: Any, ids: Any, rows: torch.Tensor, columns: torch.Tensor, **inputs: Any) -> Any:
        num_rows.append(len(rows))
        return logits(model, ids, rows, columns, **inputs)

    with evaluating(model, "float32"):
        alone = [
            sampling.sampled_decode(model, [prompt], [draw], stop_ids=stops, batch_size=1)[0]
            for prompt, draw in zip(prompts, draws, strict=True)
        ]
        monkeypatch.setattr(generation, "selected_logits", counted)
        together = sampling.sampled_decode(model, prompts, draws, stop_ids=stops, batch_size=8)
    assert together == alone
    assert num_rows[0] == 8 > num_rows[-1]
    assert len({len(answer.tokens) for answer in together}) > 3  # they end one after the other


def test_sampled_decode_tokens_are_those_of_the_models_own_distribution() -> None:
    model, prompt = small.llama(0), [5, 80, 99]
    draws = np.random.default_rng(1).random(10)
    with evaluating(model, "float32"):
        (answer,) = sampling.sampled_decode(model, [prompt], [draws.tolist()], stop_ids=[], batch_size=1)
        logits = model(torch.tensor([prompt + answer.tokens])).logits[0, len(prompt) - 1 : -1].double()
    expected = [
        int(np.searchsorted(row.softmax(-1).cumsum(-1).numpy(), draw)) for row, draw in zip(logits, draws, strict=True)
    ]
    assert answer.tokens == expected


def test_sampled_decode_ends_at_a_stop_token() -> None:
    model, prompt = small.llama(0), [5, 80, 99]
    draws = [np.random.default_rng(1).random(10).tolist()]
    with evaluating(model, "float32"):
        (free,) = sampling.sampled_decode(model, [prompt], draws, stop_ids=[], batch_size=1)
        (ended,) = sampling.sampled_decode(model, [prompt], draws, stop_ids=[free.tokens[4]], batch_size=1)
    assert ended.stopped
    assert ended.stop_id == free.tokens[4]
    assert ended.tokens == free.tokens[: free.tokens.index(free.tokens[4])]


def test_of_answers_counts_what_ended_them_and_leaves_out_nothing_said() -> None:
    prompts = [drift_texts.Prompt("a", (7, 8)), drift_texts.Prompt("b", (7,))]
    answers = [Decoded([3], stopped=True, stop_id=1, is_finite=True), Decoded([], False, None, True)]
    assert drift_texts.of_answers("base_answers", prompts, answers) == [
        DriftText("base_answers", "a", (7, 8, 3, 1), (2, 3), (1, 2))
    ]


# -- real weights -----------------------------------------------------------------------------------------------------


def tinystories(folder: Path) -> Any:
    """Return an evaluation of real stories as neutral text."""
    rows = [
        {"id": f"s{n}", "text": row["text"][:400]}
        for n, row in enumerate(small.real_rows("lm/tinystories.test.jsonl", 6))
    ]
    source = small.write_items(folder / "stories.jsonl", rows)
    return small.evals(small.task("perplexity", source), val_share=0.99, max_length=256)


def one_step(model: Any, ids: list[int], rate: float) -> Any:
    """Take one step of plain gradient descent on a text."""
    model.train()
    model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
    return model.eval()


@pytest.mark.skipif(not small.REAL.is_dir(), reason="needs the real models and data beside the checkout")
@pytest.mark.real
def test_real_step_of_full_and_of_lora_drift_as_their_merged_weights_do(tmp_path: Path) -> None:
    base, tokenizer = small.real_model("stories260K")
    spec, chat = tinystories(tmp_path), small.chat(tokenizer, "tokenizer" if tokenizer.chat_template else "chatml_lite")
    ids = tokenizer("Tim had a big red dog that could sing all day.")["input_ids"]
    full = one_step(small.real_model("stories260K")[0], ids, 0.1)
    lora = attach(small.real_model("stories260K")[0], LORA, seed=0)
    for _ in range(2):  # the first step of an adapter moves B alone
        lora = one_step(lora, ids, 1.0)
    for tuned, given in ((full, base), (lora, None)):
        summary, rows = measure(tuned, given, chat, [], spec, num_texts=6, batch_size=3)
        merged = tuned if given is not None else tuned.merge_and_unload()
        expected = []
        for story in small.real_rows("lm/tinystories.test.jsonl", 6):
            tokens = torch.tensor([tokenizer(story["text"][:400])["input_ids"][:256]])
            with torch.no_grad():
                p, q = (model(tokens).logits[0, :-1].double().log_softmax(-1) for model in (base, merged))
            expected.append(F.kl_div(q, p, log_target=True, reduction="none").sum(-1))
        known = values_of(rows, "neutral", "kl_base_tuned")
        assert len(known) >= 4
        whole = {f"small/perplexity/s{n}": float(values.mean()) for n, values in enumerate(expected)}
        for item, value in known.items():
            assert value == pytest.approx(whole[item], rel=1e-3)
        assert summary.values["neutral/kl_base_tuned"] > 1e-5
        assert summary.values["weights/stable_rank"] >= 1.0
