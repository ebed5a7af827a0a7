"""The drift panel: how far a trained model's distributions, answers and weights have moved from its base.

Invariant: measuring changes neither model - weights, modes, random state, 4-bit layouts - and draws the same numbers
for both, so identical models drift by exactly 0. What does not live here: which texts (drift_texts.py), one pair of
distributions (divergence.py), one layer (weight_change.py).

Text sets are those of drift_texts.py, and beside them

    samples    answers sampled from both models to the prompts of the new task, `SAMPLES` a prompt
    weights    the linear layers; `item_id` is a layer's name
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from torch import nn

from harness.evals import divergence, drift_texts, weight_change
from harness.evals.drift_texts import DriftText, Prompt
from harness.evals.forward import evaluating
from harness.evals.generation import Decoded, greedy_decode
from harness.evals.model_pair import ModelPair
from harness.evals.sampling import sampled_decode
from harness.evals.scorer import Scorer
from harness.evals.table import NOT_FINITE, columns_of, write_parquet
from harness.evals.weight_change import LayerChange
from harness.models import Halvings
from harness.records.schema import DriftSummary
from harness.seeding import numpy_stream
from harness.spec import EvalSpec

if TYPE_CHECKING:
    from harness.data import ChatFormat
    from harness.data.example import Example

DRIFT_FILE = "drift.parquet"
MAX_NEW_TOKENS = 64
SAMPLES = 4
FIRST = 5
"""Positions that `_first` means are over; `_rest` has those after."""
NUM_POSITIONS = 32
"""Positions with rows of their own."""
NGRAMS = (1, 2, 3)
OF_CHANGED = ("stable_rank", "effective_rank", "num_intruders")
"""Measures of a layer whose means are over the layers that have changed."""
TEXT_SETS = ("answers", "base_answers", "tuned_answers", "neutral")
POSITIONED = ("kl_base_tuned", "kl_tuned_base", "entropy_base", "entropy_tuned")
"""Measures with rows for single positions."""
WITH_ENDS = ("kl_base_tuned", "kl_tuned_base")
"""Measures with `_first` and `_rest` beside the mean over all tokens."""
SHIFT_CLASSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unshifted": lambda rank_N: rank_N == 1,
    "marginal": lambda rank_N: (rank_N > 1) & (rank_N <= 3),
    "shifted": lambda rank_N: rank_N > 3,
}
"""Share of the trained model's tokens that the base ranks first, second or third, lower.

Source: Lin et al. (URIAL), arXiv:2312.01552, section 2.
"""


class DriftRow(NamedTuple):
    """One number about one text or layer; the columns of drift.parquet."""

    text_set: str
    item_id: str
    position: int | None
    """Of the predicted token, from 1; None is the mean over all tokens of the text."""
    metric: str
    value: float
    """nan where it could not be measured."""


SCHEMA = pa.schema(
    [
        ("text_set", pa.string()),
        ("item_id", pa.string()),
        ("position", pa.int32()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)


def measure(
    tuned: nn.Module,
    base: nn.Module | None,
    chat: ChatFormat,
    rows: Sequence[Example],
    spec: EvalSpec,
    *,
    num_texts: int,
    batch_size: int,
    halvings: Halvings | None = None,
) -> tuple[DriftSummary, list[DriftRow]]:
    """Return the means of the drift panel and the numbers that they are of.

    Args:
        tuned: as training left it; it is not changed.
        base: what it was before, with as many tokens; None where `tuned` is an adapter that holds its base.
        chat: tokenizer and template.
        rows: validation rows, never packed: their prompts and answers are the new task.
        spec: how models compute, how much they read, and the slices of raw text.
        num_texts: of each text set.
        batch_size: rows computed together; moves no number beyond floating-point order.
        halvings: of it, where memory runs out; None are of this panel alone.

    Raises:
        ModelError: `base` is None and there is no adapter to switch off, or an adapter is merged.
        DataError: items of a slice are missing or cannot be read.
    """
    pair = ModelPair(tuned, base)
    scorer = Scorer(tuned, chat, spec, batch_size=batch_size, halvings=halvings)
    with _both_evaluating(pair, spec):
        texts, prompts, reasons = _texts(pair, scorer, rows, spec, num_texts)
        values = _compared(pair, scorer, texts)
        sampled = _sampled(pair, scorer, prompts, spec.items_seed)
    layers = weight_change.of_layers(pair)
    of_layers, why = _means_of_layers(layers)
    reasons |= why
    means = _means(texts, values) | _means_of_rows(sampled) | of_layers
    found = [*_text_rows(texts, values), *sampled, *_layer_rows(layers)]
    return summary_of(means, reasons), found


def summary_of(means: dict[str, float], reasons: dict[str, str]) -> DriftSummary:
    """Return means as they are recorded: one that is not finite is unknown.

    Args:
        means: `text_set/metric` -> value.
        reasons: text set -> why nothing in it is known.
    """
    return DriftSummary(
        values={key: value if math.isfinite(value) else None for key, value in means.items()},
        reasons=reasons | {key: NOT_FINITE for key, value in means.items() if not math.isfinite(value)},
    )


def write_rows(path: Path, rows: Sequence[DriftRow]) -> None:
    """Write drift.parquet as a whole.

    Raises:
        DiskError: the disk is full or read-only.
    """
    write_parquet(path, columns_of(rows, SCHEMA.names), SCHEMA)


# -- texts ------------------------------------------------------------------------------------------------------------


@contextmanager
def _both_evaluating(pair: ModelPair, spec: EvalSpec) -> Iterator[None]:
    with evaluating(pair.tuned, spec.dtype), evaluating(pair.base or pair.tuned, spec.dtype):
        yield


def _texts(
    pair: ModelPair, scorer: Scorer, rows: Sequence[Example], spec: EvalSpec, num_texts: int
) -> tuple[list[DriftText], list[Prompt], dict[str, str]]:
    """Return all texts, the prompts of the new task with room for an answer, and why a set is empty."""
    answers, prompts = drift_texts.of_rows(rows, num_texts, scorer.max_length)
    room = scorer.max_length - _longest(scorer)
    prompts = [replace(prompt, input_ids=prompt.input_ids[-room:]) for prompt in prompts]
    with pair.as_base() as base:
        of_base = drift_texts.of_answers("base_answers", prompts, _greedy(base, scorer, prompts))
    of_tuned = drift_texts.of_answers("tuned_answers", prompts, _greedy(pair.tuned, scorer, prompts))
    neutral = drift_texts.neutral(scorer, spec, num_texts)
    why_no_answers = drift_texts.NO_ANSWERS if rows else drift_texts.NO_ROWS
    why_no_tokens = drift_texts.NO_TOKENS if prompts else why_no_answers
    sets = {
        "answers": (answers, why_no_answers),
        "base_answers": (of_base, why_no_tokens),
        "tuned_answers": (of_tuned, why_no_tokens),
        "neutral": (neutral, drift_texts.NO_NEUTRAL),
        "samples": (prompts, why_no_answers),
    }
    return (
        [*answers, *of_base, *of_tuned, *neutral],
        prompts,
        {name: why for name, (held, why) in sets.items() if not held},
    )


def _longest(scorer: Scorer) -> int:
    return min(MAX_NEW_TOKENS, scorer.max_length // 2)


def _greedy(model: nn.Module, scorer: Scorer, prompts: Sequence[Prompt]) -> list[Decoded]:
    return scorer.in_what_fits(
        lambda num_rows: greedy_decode(
            model,
            [prompt.input_ids for prompt in prompts],
            stop_ids=scorer.chat.stop_token_ids,
            has_ended=scorer.has_ended(scorer.turn_ends),
            max_new_tokens=_longest(scorer),
            batch_size=num_rows,
        ),
        len(prompts),
    )


def _compared(pair: ModelPair, scorer: Scorer, texts: Sequence[DriftText]) -> list[dict[str, np.ndarray]]:
    return scorer.in_what_fits(
        lambda num_rows: divergence.of_texts(pair, texts, batch_size=num_rows, num_halvings=scorer.halvings.count),
        len(texts),
    )


# -- samples ----------------------------------------------------------------------------------------------------------


def _sampled(pair: ModelPair, scorer: Scorer, prompts: Sequence[Prompt], seed: int) -> list[DriftRow]:
    """Return how much the answers sampled to one prompt differ, of both models; each gets the same random numbers."""
    draws = [
        numpy_stream(seed, f"drift.sample/{prompt.item_id}/{number}").random(_longest(scorer)).tolist()
        for prompt in prompts
        for number in range(SAMPLES)
    ]
    repeated = [prompt.input_ids for prompt in prompts for _ in range(SAMPLES)]

    def sampled(model: nn.Module) -> list[Decoded]:
        return scorer.in_what_fits(
            lambda num_rows: sampled_decode(
                model,
                repeated,
                draws,
                stop_ids=scorer.chat.stop_token_ids,
                has_ended=scorer.has_ended(scorer.turn_ends),
                batch_size=num_rows,
            ),
            len(repeated),
        )

    with pair.as_base() as base:
        answers = {"base": sampled(base)}
    answers["tuned"] = sampled(pair.tuned)
    return [
        DriftRow("samples", prompt.item_id, None, f"{measure}_{whose}", value)
        for whose, said in answers.items()
        for number, prompt in enumerate(prompts)
        for measure, value in diversity(said[number * SAMPLES : (number + 1) * SAMPLES]).items()
    ]


def diversity(answers: Sequence[Decoded]) -> dict[str, float]:
    """Return how much the answers to one prompt differ; more is more diverse, but for `self_bleu`.

    - `distinct_n` = different n-grams of tokens / n-grams, over all answers, what ended them included; absent where no
      answer has n tokens. Source: Li et al., arXiv:1510.03055, section 5.3, there over a whole test set.
    - `unique` = different answers / answers.
    - `self_bleu` = mean over answers of the BLEU of one against all others, see `self_bleu`; less is more diverse.

    nan where a model's output is not finite.
    """
    said = [(*answer.tokens, *(() if answer.stop_id is None else (answer.stop_id,))) for answer in answers]
    grams = {n: [tokens[at : at + n] for tokens in said for at in range(len(tokens) - n + 1)] for n in NGRAMS}
    found = {f"distinct_{n}": len(set(members)) / len(members) for n, members in grams.items() if members}
    found |= {"unique": len(set(said)) / len(said), "self_bleu": self_bleu(said)}
    return found if all(answer.is_finite for answer in answers) else dict.fromkeys(found, math.nan)


def self_bleu(answers: Sequence[Sequence[int]]) -> float:
    """Return the mean over answers of the BLEU of each against all others, from 0 to 1; less is more diverse.

    Of tokens, up to 4-grams, or as long as an answer is; n-grams without a match are smoothed exponentially, an answer
    without any matching token has 0. nan of fewer than two answers.

    Source: Zhu et al. (Texygen), arXiv:1802.01886, section 3.2, there over a whole test set; BLEU is sacrebleu's.
    """
    from sacrebleu.metrics.bleu import BLEU

    if len(answers) < 2:
        return math.nan
    bleu = BLEU(tokenize="none", effective_order=True)  # of one answer, where 4-grams may be missing
    words = [" ".join(map(str, answer)) for answer in answers]
    scores = [bleu.sentence_score(one, [*words[:at], *words[at + 1 :]]).score for at, one in enumerate(words)]
    return math.fsum(scores) / len(scores) / 100


# -- rows and means ---------------------------------------------------------------------------------------------------


def _text_rows(texts: Sequence[DriftText], values: Sequence[dict[str, np.ndarray]]) -> Iterator[DriftRow]:
    for text, found in zip(texts, values, strict=True):
        yield DriftRow(text.text_set, text.item_id, None, "num_tokens", float(len(text.places)))
        for metric, value in token_means(text.text_set, found, np.array(text.positions)).items():
            yield DriftRow(text.text_set, text.item_id, None, metric, value)
        # of several answers in one text the first alone has rows for single positions
        for number, position in enumerate(text.positions[:NUM_POSITIONS], start=1):
            if position != number:
                break
            for measure in POSITIONED:
                value = float(found[measure][number - 1])
                yield DriftRow(text.text_set, text.item_id, position, measure, value)


def token_means(text_set: str, found: dict[str, np.ndarray], position_N: np.ndarray) -> dict[str, float]:
    """Return the means over tokens of what `divergence.compared` says of each.

    Args:
        text_set: whose tokens these are; shift classes are those of the trained model's own answers.
        found: measure -> value of each token [N], N at least 1.
        position_N: of each token in its answer, from 1.

    Returns:
        Measure -> mean; the two divergences also over positions 1 to `FIRST` (`_first`) and those after (`_rest`), each
        absent where there is no such token.
    """
    means = {measure: float(found[measure].mean()) for measure in divergence.MEASURES[:-1]}
    is_first_N = position_N <= FIRST
    for measure in WITH_ENDS:
        for end, is_meant_N in (("first", is_first_N), ("rest", ~is_first_N)):
            if is_meant_N.any():
                means[f"{measure}_{end}"] = float(found[measure][is_meant_N].mean())
    if text_set == "tuned_answers":
        means |= {name: float(is_in(found["rank_base"]).mean()) for name, is_in in SHIFT_CLASSES.items()}
    return means


def _means(texts: Sequence[DriftText], values: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """Return the means over all tokens of each text set, however they are spread over its texts."""
    means: dict[str, float] = {}
    for text_set in TEXT_SETS:
        members = [(text, found) for text, found in zip(texts, values, strict=True) if text.text_set == text_set]
        if not members:
            continue
        together = {name: np.concatenate([found[name] for _, found in members]) for name in divergence.MEASURES}
        position_N = np.concatenate([text.positions for text, _ in members])
        means |= {f"{text_set}/{name}": value for name, value in token_means(text_set, together, position_N).items()}
        means |= {f"{text_set}/num_texts": float(len(members)), f"{text_set}/num_tokens": float(len(position_N))}
    return means


def _means_of_rows(rows: Iterable[DriftRow]) -> dict[str, float]:
    """Return the plain means over items."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[f"{row.text_set}/{row.metric}"].append(row.value)
    return {key: math.fsum(values) / len(values) for key, values in groups.items()}


def _layer_rows(layers: Sequence[LayerChange]) -> list[DriftRow]:
    return [
        DriftRow("weights", layer.name, None, metric, float(getattr(layer, metric)))
        for layer in layers
        for metric in ("relative_change", *OF_CHANGED)
    ]


def _means_of_layers(layers: Sequence[LayerChange]) -> tuple[dict[str, float], dict[str, str]]:
    """Return `relative_change` = sqrt(sum ||dW||_F^2 / sum ||W||_F^2) over all layers, the plain means of `OF_CHANGED`
    over those that have changed, and why one of these is unknown: no layer, or one is too large for it."""
    whole = math.fsum(layer.weight_norm**2 for layer in layers)
    changed = [layer for layer in layers if layer.change_norm]
    size = math.fsum(layer.change_norm**2 for layer in changed)
    means, reasons = {"weights/relative_change": math.sqrt(size / whole) if whole else math.nan}, {}
    for metric in OF_CHANGED:
        values = [float(getattr(layer, metric)) for layer in changed]
        large = sum(layer.is_large and math.isnan(value) for layer, value in zip(changed, values, strict=True))
        if not changed or large:
            reasons[f"weights/{metric}"] = _why_unknown(large, len(changed))
        else:
            means[f"weights/{metric}"] = math.fsum(values) / len(values)
    return means, reasons


def _why_unknown(num_large: int, num_changed: int) -> str:
    if not num_changed:
        return weight_change.UNCHANGED
    return (
        f"{num_large} of {num_changed} changed layers have more than {weight_change.LARGEST_SIDE} outputs and inputs, "
        "too many to decompose"
    )
