"""What a training set really trains on, before compute is spent on it.

Invariant: everything is counted on the very tokens and weights that training will read, not on the text they came from.
What does not live here: how rows are shown (picture.py), what rows have in common (hygiene.py).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.data.example import Example
from harness.data.masks import PARTS
from harness.data.prepare import PreparedData
from harness.spec import DataSpec

UNKNOWN_PART = "unknown"
"""What tokens of a slow tokenizer are a part of."""


@dataclass(frozen=True)
class Audit:
    """Counts over the training rows of one seed. A share of nothing is None."""

    num_rows_read: int
    num_rows_dropped: Mapping[str, int]
    """Reason -> rows of the source that are not used."""
    num_examples: int
    num_rows: int
    """Rows that the examples share."""
    pack_fill: float | None
    """Share of the places of packed rows that hold a token; None without packing."""
    examples_per_step: float
    loss_tokens_per_step: float
    """Mean over an epoch."""
    tokens: Mapping[str, int]
    """Part of a conversation (`masks.PARTS`) -> tokens."""
    loss_tokens: Mapping[str, int]
    """The same -> tokens with a positive loss weight."""
    loss_weight: Mapping[str, float]
    """The same -> their weights together."""
    num_without_loss: int
    """Examples of which no token has a positive weight: the data gives their answers none."""
    num_truncated: int
    num_ends_lost: int
    """Tokens that end a turn and were cut away."""
    num_exact_duplicates: int
    """Examples with the very tokens of an earlier one."""
    completion_prompt_ratio: float | None
    template_sha256: str
    mask_engine: str

    @property
    def num_tokens(self) -> int:
        """Return all tokens."""
        return sum(self.tokens.values())

    @property
    def num_loss_tokens(self) -> int:
        """Return the tokens with a positive loss weight."""
        return sum(self.loss_tokens.values())

    @property
    def end_of_turn_share(self) -> float | None:
        """Return the share of the loss weight that lies on ends of turns; None where the tokenizer cannot tell."""
        if UNKNOWN_PART in self.tokens:
            return None
        return _share(self.loss_weight.get("end_of_turn", 0.0), math.fsum(self.loss_weight.values()))

    @property
    def truncated_share(self) -> float | None:
        """Return the share of the examples that were cut."""
        return _share(self.num_truncated, self.num_examples)

    @property
    def ends_lost_share(self) -> float | None:
        """Return the share of the tokens that end a turn which were cut away."""
        return _share(self.num_ends_lost, self.num_ends_lost + self.tokens.get("end_of_turn", 0))

    def problems(self, spec: DataSpec) -> list[str]:
        """Return one sentence for each reason not to train on these rows; none for a sound set."""
        found: list[str] = []
        if not self.num_loss_tokens:
            found.append(
                f"no token of the {self.num_examples} training rows carries loss, but at least one must; look at the "
                "weights of messages and at data.trained_turns"
            )
        elif spec.train_on_end_of_turn and UNKNOWN_PART not in self.tokens and not self.loss_tokens.get("end_of_turn"):
            found.append(
                f"data.train_on_end_of_turn is True, but none of {self.num_loss_tokens} loss tokens ends a turn, so "
                "that a model would never learn to stop; raise data.max_length, or set it to False"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """Return every count and share by name."""
        shares = {name: getattr(self, name) for name in ("end_of_turn_share", "truncated_share", "ends_lost_share")}
        return {key: dict(v) if isinstance(v, Mapping) else v for key, v in asdict(self).items()} | shares


def audit(rows: PreparedData, batch_size: int) -> Audit:
    """Return what rows train on.

    Args:
        rows: as training will read them.
        batch_size: rows of a step.
    """
    tokens, loss_tokens, loss_weight = _by_part(rows.train)
    num_loss_tokens = sum(loss_tokens.values())
    per_step = min(batch_size, len(rows.train)) / len(rows.train)
    summary = rows.summary
    return Audit(
        num_rows_read=summary.num_rows_read,
        num_rows_dropped=summary.num_rows_dropped,
        num_examples=rows.num_examples,
        num_rows=len(rows.train),
        pack_fill=summary.pack_fill,
        examples_per_step=rows.num_examples * per_step,
        loss_tokens_per_step=num_loss_tokens * per_step,
        tokens=tokens,
        loss_tokens=loss_tokens,
        loss_weight=loss_weight,
        num_without_loss=sum(int(np.sum(row.weight_sums == 0)) for row in rows.train),
        num_truncated=summary.num_truncated,
        num_ends_lost=rows.num_ends_lost,
        num_exact_duplicates=_num_repeated(rows.train),
        completion_prompt_ratio=summary.completion_prompt_ratio,
        template_sha256=summary.template_sha256,
        mask_engine=summary.mask_engine,
    )


def _by_part(rows: Sequence[Example]) -> tuple[dict[str, int], dict[str, int], dict[str, float]]:
    tokens, loss_tokens, loss_weight = Counter[str](), Counter[str](), defaultdict[str, float](float)
    for row in rows:
        if row.parts is None:
            tokens[UNKNOWN_PART] += len(row.input_ids)
            loss_tokens[UNKNOWN_PART] += int(np.count_nonzero(row.loss_weights))
            loss_weight[UNKNOWN_PART] += float(row.loss_weights.sum(dtype=np.float64))
            continue
        counts = np.bincount(row.parts, minlength=len(PARTS))
        trained = np.bincount(row.parts[row.loss_weights > 0], minlength=len(PARTS))
        weights = np.bincount(row.parts, weights=row.loss_weights, minlength=len(PARTS))
        for name, count, loss, weight in zip(PARTS, counts, trained, weights, strict=True):
            tokens[name] += int(count)
            loss_tokens[name] += int(loss)
            loss_weight[name] += float(weight)
    return _present(tokens, tokens), _present(loss_tokens, tokens), _present(loss_weight, tokens)


def _present(counts: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    return {name: count for name, count in counts.items() if tokens[name]}


def _num_repeated(rows: Sequence[Example]) -> int:
    texts = [part.tobytes() for row in rows for part in np.split(row.input_ids, row.starts[1:])]
    return len(texts) - len(set(texts))


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
