"""From a data spec to token rows with loss weights.

Invariant: a training set has exactly the size that was asked for, every row of it has a token of an answer, and which
rows are in it does not depend on what their tokens weigh, so a loss-mask ablation compares the same rows. What does not
live here: reading, choosing, encoding and packing, each a module.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.data import hygiene, packing, sources
from harness.data.chat import ChatFormat
from harness.data.conversations import Conversation, Message
from harness.data.encoding import Encoder
from harness.data.example import Example
from harness.data.selection import (
    in_proportion,
    replay_order,
    training_order,
    validation_order,
    with_completion_ratio,
)
from harness.errors import DataError
from harness.records.schema import DataSummary
from harness.records.store import Store
from harness.spec import DataSpec

NUM_SAMPLE_PROMPTS = 4


@dataclass(frozen=True)
class PreparedData:
    """All that training needs to know of its data."""

    train: list[Example]
    """Of packed data each row holds several."""
    validation: list[Example]
    """Never packed."""
    sample_prompts: list[list[Message]]
    """Conversations up to where the assistant first speaks, the same for every seed and size."""
    summary: DataSummary
    num_ends_lost: int = 0
    """Tokens that end a turn and were cut away from training rows."""
    reads_itself_alone: bool = False
    """Whether examples are laid end to end, each attending to itself alone; if not, rows are padded."""

    @property
    def num_examples(self) -> int:
        """Return how many examples there are to train on, however many rows they share."""
        return sum(row.num_examples for row in self.train)


def prepare(
    spec: DataSpec,
    chat: ChatFormat,
    *,
    seed: int,
    store: Store | None = None,
    kept_out: Mapping[str, Mapping[str, str]] | None = None,
) -> PreparedData:
    """Return training and validation rows as tokens and weights.

    Rows are rendered in the order in which they are chosen, and one that cannot be used makes room for the next; so
    `num_rows_dropped` counts what the source could not give and, of the rest, what was in the way.

    Args:
        spec: what to train on.
        chat: tokenizer and template, from `chat_format`.
        seed: the trial's.
        store: where fetched hub datasets lie.
        kept_out: task key -> item id -> what no row may say, for `spec.decontaminate`.

    Raises:
        DataError: the source is not usable, has fewer usable rows than asked for, or does not fit the template.
    """
    rows = _cleaned(sources.read_rows(spec.source, store), spec, kept_out or {})
    chat.require(rows.conversations)
    encoder = Encoder(spec, chat, rows.conversations, Counter(rows.dropped))
    order = validation_order(len(rows.conversations))
    validation = encoder.take(order, spec.num_validation)
    _require(validation, spec.num_validation, "data.num_validation", rows, encoder.dropped)
    pool = sorted(set(range(len(rows.conversations))) - encoder.seen)
    encoder.num_truncated = encoder.num_ends_lost = encoder.num_control_text = 0  # counted over the training rows alone
    pool = with_completion_ratio(pool, rows.conversations, spec.completion_ratio)
    train, num_replayed = _taken(
        spec, encoder, rows, in_proportion(training_order(pool, seed), rows.conversations, seed)
    )
    chosen = [rows.conversations[index] for index in encoder.kept[spec.num_validation :][: len(train)]]
    prompts = (rows.conversations[index].first_prompt for index in order)
    replayed = _replayed(spec, chat, seed, num_replayed, encoder, store, kept_out or {})
    rows_to_train = packing.packed([*train, *replayed], spec) if spec.is_packed else [*train, *replayed]
    return PreparedData(
        train=rows_to_train,
        validation=validation,
        sample_prompts=[prompt for prompt, _ in zip(filter(None, prompts), range(NUM_SAMPLE_PROMPTS), strict=False)],
        summary=_summary(spec, chat, rows, encoder, train, replayed, rows_to_train, validation, chosen),
        num_ends_lost=encoder.num_ends_lost,
        reads_itself_alone=spec.packing in ("padding_free", "isolated"),
    )


def _cleaned(rows: sources.Rows, spec: DataSpec, kept_out: Mapping[str, Mapping[str, str]]) -> sources.Rows:
    """Return rows without those that the spec drops whatever is chosen of the rest."""
    kept, dropped = rows.conversations, Counter[str]()
    if spec.decontaminate:
        prompts = [hygiene.prompt(row) for row in kept]
        asked = set[int]().union(*(hygiene.overlap(key, items, prompts).rows for key, items in kept_out.items()))
        kept = [row for place, row in enumerate(kept) if place not in asked]
        dropped["in_evaluation"] = len(asked)
    if spec.deduplicate != "off":
        texts = [hygiene.whole(row) for row in kept]
        exact = hygiene.exact_duplicates(texts)
        alike = exact | (hygiene.near_duplicates(texts) if spec.deduplicate == "near" else {})
        kept = [row for place, row in enumerate(kept) if place not in alike]
        dropped.update({"duplicate": len(exact), "near_duplicate": len(alike) - len(exact)})
    return replace(rows, conversations=kept, dropped=rows.dropped + dropped)


def _taken(spec: DataSpec, encoder: Encoder, rows: sources.Rows, order: Sequence[int]) -> tuple[list[Example], int]:
    """Return the training rows that are not replayed, and how many rows are to be: together the size asked for."""
    if spec.num_examples is None:
        usable = encoder.take(order, None)
        _require(usable, None, "data.num_examples", rows, encoder.dropped, spec)
        num_replayed = spec.num_replayed(len(usable))
        return usable[: len(usable) - num_replayed], num_replayed
    num_replayed = spec.num_replayed(spec.num_examples)
    wanted = spec.num_examples - num_replayed
    train = encoder.take(order, wanted)
    name = "data.num_examples" + (f" less {num_replayed} replayed rows" if num_replayed else "")
    _require(train, wanted, name, rows, encoder.dropped, spec)
    return train, num_replayed


def _replayed(
    spec: DataSpec,
    chat: ChatFormat,
    seed: int,
    num_rows: int,
    encoder: Encoder,
    store: Store | None,
    kept_out: Mapping[str, Mapping[str, str]],
) -> list[Example]:
    """Return rows of the replay source; what is dropped of it is counted beside the rest.

    Raises:
        DataError: there is no replay source, or it has too few usable rows.
    """
    if not num_rows:
        return []
    if spec.replay_source is None:
        raise DataError(
            f"data.replay_share is {spec.replay_share!r}, but must be 0.0 without data.replay_source; name one"
        )
    rows = _cleaned(sources.read_rows(spec.replay_source, store), spec, kept_out)
    chat.require(rows.conversations)
    others = Encoder(spec, chat, rows.conversations, Counter(rows.dropped))
    replayed = others.take(replay_order(len(rows.conversations), seed), num_rows)
    _require(replayed, num_rows, f"data.replay_share {spec.replay_share!r} in rows", rows, others.dropped)
    encoder.dropped.update({f"replay {reason}": count for reason, count in others.dropped.items()})
    encoder.num_truncated += others.num_truncated
    encoder.num_ends_lost += others.num_ends_lost
    encoder.num_control_text += others.num_control_text
    return replayed


def _require(
    taken: Sequence[Example],
    asked: int | None,
    name: str,
    rows: sources.Rows,
    dropped: Counter[str],
    spec: DataSpec | None = None,
) -> None:
    if len(taken) >= (1 if asked is None else asked):
        return
    parts = [f"the data has {rows.num_read} rows"]
    if spec:
        parts.append(f"less {spec.num_validation} for validation")
        if spec.completion_ratio != "any":
            parts.append(f"of which data.completion_ratio {spec.completion_ratio!r} keeps half")
    if dropped:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items()))
        parts.append(f"less those dropped ({reasons})")
    rule = "there is no row to train on" if asked is None else f"must be at most {len(taken)}"
    raise DataError(f"{name} is {asked}, but {rule}: {', '.join(parts)}; ask for fewer or give more data")


# -- summary ----------------------------------------------------------------------------------------------------------


def _summary(
    spec: DataSpec,
    chat: ChatFormat,
    rows: sources.Rows,
    encoder: Encoder,
    taken: Sequence[Example],
    replayed: Sequence[Example],
    rows_to_train: Sequence[Example],
    validation: Sequence[Example],
    chosen: Sequence[Conversation],
) -> DataSummary:
    train = [*taken, *replayed]
    num_tokens = sum(len(example.input_ids) for example in train)
    num_loss_tokens = sum(int(np.count_nonzero(example.loss_weights)) for example in train)
    prompts, said = sum(row.prompt_length for row in chosen), spec.instructions == "kept"
    return DataSummary(
        rows_sha256=rows_sha256(rows_to_train, validation),
        num_rows_read=rows.num_read,
        num_rows_dropped=dict(sorted(encoder.dropped.items())),
        num_train=len(train),
        num_validation=len(validation),
        num_truncated=encoder.num_truncated,
        completion_prompt_ratio=sum(row.completion_length for row in chosen) / prompts if prompts and said else None,
        mean_tokens=num_tokens / len(train),
        loss_token_share=num_loss_tokens / num_tokens,
        template_sha256=chat.sha256,
        num_replay_rows=len(replayed),
        num_replay_tokens=sum(len(example.input_ids) for example in replayed),
        mask_engine="offsets_and_prefixes" if chat.is_fast else "prefixes",
        num_packed_rows=len(rows_to_train) if spec.is_packed else None,
        num_control_text=encoder.num_control_text,
        pack_fill=packing.fill(rows_to_train, spec.max_length) if spec.is_packed else None,
    )


def rows_sha256(train: Sequence[Example], validation: Sequence[Example]) -> str:
    """Return the hash of all ids and loss weights, training rows first, each row with its lengths."""
    digest = hashlib.sha256()
    for part in (train, validation):
        digest.update(f"{len(part)} rows\n".encode())
        for example in part:
            digest.update(f"{'+'.join(map(str, example.lengths)) or len(example.input_ids)}\n".encode())
            digest.update(example.input_ids.astype("<i8").tobytes())
            digest.update(example.loss_weights.astype("<f4").tobytes())
    return digest.hexdigest()
