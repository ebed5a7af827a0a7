"""What a training set really trains on, before compute is spent on it.

Invariant: everything is counted on the very tokens and weights that training will read, not on the text they came from.
What does not live here: how rows are shown (picture.py), what rows have in common (hygiene.py).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from harness.data import hygiene
from harness.data.chat import ChatFormat
from harness.data.example import Example
from harness.data.ledger import Part
from harness.data.masks import PARTS
from harness.data.prepare import PreparedData
from harness.data.splits import SplitOverlap
from harness.records.schema import DataSummary
from harness.spec import DataSpec

UNKNOWN_PART = "unknown"
"""What tokens of a slow tokenizer are a part of."""


MOST_COMPARED = 20_000
"""Rows of a source among which near duplicates are looked for: a second for a thousand or two."""


@dataclass(frozen=True)
class OverlapCounts:
    """How much of one suite stands in the training rows."""

    num_items: int
    num_checked: int
    """Items of at least four words."""
    num_overlapping: int

    @property
    def share(self) -> float | None:
        """Return the overlapping share of the items that could be checked."""
        return _share(self.num_overlapping, self.num_checked)

    @property
    def contaminated(self) -> bool:
        """Return whether more than 2 % of the suite overlap."""
        return (self.share or 0.0) > hygiene.CONTAMINATED_SHARE


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
    num_near_duplicates: int | None
    """Rows that training takes and that are like an earlier one of their source, exact ones included; None of sources
    of more than `MOST_COMPARED` rows."""
    overlaps: Mapping[str, OverlapCounts]
    """Evaluation task -> how many of its items stand in the rows; rows of tokens cannot be searched."""
    split_overlaps: Mapping[str, SplitOverlap]
    """Evaluation task -> how many of its test items stand in val items; of a task that is not here it is unknown."""
    languages: Mapping[str, int] | None
    """ISO 639 code, or `unknown` -> training rows; None of more than `MOST_COMPARED` rows."""
    domains: Mapping[str, int]
    """Task that rows name, or `unknown` -> training rows."""
    num_part_rows: Mapping[str, int]
    """Other part that takes the place of rows of the source -> its training rows."""
    num_marked: Mapping[str, int]
    """What was done to rows on purpose -> rows."""
    num_scrubbed: Mapping[str, int]
    """Kind of personal data -> places where it was replaced, in every row that was read."""
    num_control_text: int
    """Training rows in which a message spells a control token; it was read as text, unless the spec says otherwise."""
    num_rewritten: int
    """Training rows in which the template writes an answer in other words or without some; they are trained on so."""
    completion_prompt_ratio: float | None
    template_sha256: str
    mask_engine: str
    warnings: Sequence[str]
    """A sentence for each thing to look at that is no reason to refuse the rows."""
    base_loss: float | None = None
    """Of the base on the first rows, in nats a loss token, weighted as in training; None where none carries loss."""

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
        overlaps = {key: asdict(one) | {"contaminated": one.contaminated} for key, one in self.overlaps.items()}
        splits = {
            key: asdict(one) | {name: getattr(one, name) for name in ("share", "across_share", "is_large")}
            for key, one in self.split_overlaps.items()
        }
        plain = {key: dict(v) if isinstance(v, Mapping) else v for key, v in asdict(self).items()}
        return plain | shares | {"overlaps": overlaps, "split_overlaps": splits}


def audit_of(
    rows: PreparedData,
    chat: ChatFormat,
    batch_size: int,
    asked: Mapping[str, Mapping[str, str]],
    splits: Mapping[str, SplitOverlap] = MappingProxyType({}),
) -> Audit:
    """Return what rows train on.

    Args:
        rows: as training will read them.
        chat: tokenizer and template.
        batch_size: rows of a step.
        asked: task key -> item id -> what the item asks.
        splits: task key -> what its val and test items have in common.
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
        num_near_duplicates=_num_near(rows.parts),
        overlaps=_overlaps(rows.parts, asked),
        split_overlaps=dict(splits),
        languages=_languages(rows),
        domains=dict(hygiene.domains(row for part in rows.parts for row in part.chosen).most_common()),
        num_part_rows=_others(summary),
        num_marked=summary.num_marked,
        num_scrubbed=summary.num_scrubbed,
        num_control_text=summary.num_control_text,
        num_rewritten=summary.num_rewritten,
        completion_prompt_ratio=summary.completion_prompt_ratio,
        template_sha256=summary.template_sha256,
        mask_engine=summary.mask_engine,
        warnings=[*chat.warnings(), *_left_out(summary)],
    )


def _left_out(summary: DataSummary) -> list[str]:
    if not summary.ignored_fields:
        return []
    said = ", ".join(f"{name}: {count}" for name, count in summary.ignored_fields.items())
    return [f"messages hold fields that nothing reads ({said} rows); what should be trained on belongs in content"]


# -- in common --------------------------------------------------------------------------------------------------------


def _num_near(parts: Sequence[Part]) -> int | None:
    if any(len(part.conversations) > MOST_COMPARED for part in parts):
        return None
    return sum(len(_near(part).intersection(part.places)) for part in parts)


def _languages(rows: PreparedData) -> dict[str, int] | None:
    if rows.num_examples > MOST_COMPARED:
        return None
    found = Counter[str]()
    for part in rows.parts:
        named = _languages_of(part)
        found.update(named[place] for place in part.places)
    return dict(found.most_common())


@lru_cache(maxsize=4)
def _languages_of(part: Part) -> tuple[str, ...]:
    """Return the language of every row of a source: told once for all trials of a process."""
    return tuple(hygiene.language(row) for row in part.conversations)


def _others(summary: DataSummary) -> dict[str, int]:
    replayed = {"replay": summary.num_replay_rows} if summary.num_replay_rows else {}
    return replayed | summary.num_part_rows


@lru_cache(maxsize=4)
def _near(part: Part) -> frozenset[int]:
    """Return the rows of a source that are like an earlier one: looked for once for all trials of a process."""
    return frozenset(hygiene.near_duplicates([hygiene.whole(row) for row in part.conversations]))


def _overlaps(parts: Sequence[Part], asked: Mapping[str, Mapping[str, str]]) -> dict[str, OverlapCounts]:
    return {key: _overlap(parts, key, tuple(items.items())) for key, items in asked.items()}


def _overlap(parts: Sequence[Part], key: str, items: tuple[tuple[str, str], ...]) -> OverlapCounts:
    standing, num_checked = set[str](), 0
    for part in parts:
        found, taken = _standing(part, key, items), set(part.places)
        num_checked = found.num_checked
        standing |= {item for item, rows in found.rows_of.items() if not taken.isdisjoint(rows)}
    return OverlapCounts(len(items), num_checked, len(standing))


@lru_cache(maxsize=512)
def _standing(part: Part, key: str, items: tuple[tuple[str, str], ...]) -> hygiene.Overlap:
    """Return which items stand in which rows of a source: looked for once for all trials of a process."""
    return hygiene.overlap(key, dict(items), ["" if row.tokens else hygiene.prompt(row) for row in part.conversations])


# -- tokens -----------------------------------------------------------------------------------------------------------


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
