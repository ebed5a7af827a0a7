"""From a data spec to token rows with loss weights.

Invariant: a training set has exactly the size that was asked for, every row of it has a token of an answer, and which
rows are in it does not depend on what their tokens weigh, so a loss-mask ablation compares the same rows. What does not
live here: reading, choosing, encoding and packing, each a module.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from harness.data import hygiene, injection, packing, sources
from harness.data.chat import ChatFormat
from harness.data.conversations import Conversation, Message
from harness.data.encoding import Encoder
from harness.data.example import Example
from harness.data.injection import Chosen
from harness.data.scrubbing import Scrubber
from harness.data.selection import (
    by_task,
    in_proportion,
    mixture_order,
    replay_order,
    training_order,
    validation_order,
    with_completion_ratio,
)
from harness.errors import DataError
from harness.records.schema import DataSummary
from harness.records.store import Store
from harness.spec import DataSource, DataSpec

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
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Row id -> what was done on purpose to that training row: noised, styled, repeats, leaked."""

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
    leaked: Sequence[Conversation] = (),
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
        leaked: evaluation items to train on, for `spec.leak_share`.

    Raises:
        DataError: the source is not usable, has fewer usable rows than asked for, or does not fit the template.
    """
    scrubber = Scrubber(spec.scrub)
    rows = _cleaned(sources.read_rows(spec.source, store), spec, kept_out or {}, scrubber)
    chat.require(rows.conversations)
    encoder = Encoder(spec, chat, rows.conversations, Counter(rows.dropped))
    order = validation_order(len(rows.conversations))
    validation = encoder.take(order, spec.num_validation)
    _require(validation, spec.num_validation, "data.num_validation", rows, encoder.dropped)
    pool = sorted(set(range(len(rows.conversations))) - encoder.seen)
    encoder.num_truncated = encoder.num_ends_lost = 0  # counted over the training rows alone
    pool = with_completion_ratio(pool, rows.conversations, spec.completion_ratio)
    chat.require(leaked)
    leaks = _others("leaks", leaked, range(len(leaked)), None, encoder)
    order_of_seed = in_proportion(training_order(pool, seed), rows.conversations, seed)
    chosen, sizes = _taken(spec, encoder, rows, order_of_seed, len(leaks))
    injection.spoil(chosen, pool, spec, encoder, seed)
    parts = {"repeats": injection.repeats(chosen, sizes["repeats"]), "leaks": leaks}
    for example in leaks:
        chosen.mark(example.row_id, "leaked")
    for other in _other_sources(spec, seed):
        read = partial(_read, other, spec, store, kept_out or {}, scrubber)
        parts[other.name] = _from_source(other, sizes[other.name], encoder, read)
    train = [*chosen.examples.values(), *(example for part in parts.values() for example in part)]
    prompts = (rows.conversations[index].first_prompt for index in order)
    rows_to_train = packing.packed(train, spec) if spec.is_packed else train
    return PreparedData(
        train=rows_to_train,
        validation=validation,
        sample_prompts=[prompt for prompt, _ in zip(filter(None, prompts), range(NUM_SAMPLE_PROMPTS), strict=False)],
        summary=_summary(spec, chat, rows, encoder, scrubber, chosen, parts, rows_to_train, validation),
        num_ends_lost=encoder.num_ends_lost,
        reads_itself_alone=spec.packing in ("padding_free", "isolated"),
        marks=chosen.marks,
    )


def _cleaned(
    rows: sources.Rows, spec: DataSpec, kept_out: Mapping[str, Mapping[str, str]], scrubber: Scrubber
) -> sources.Rows:
    """Return rows, scrubbed, without those that the spec drops whatever is chosen of the rest."""
    kept, dropped = rows.conversations, Counter[str]()
    if spec.decontaminate:
        prompts = [hygiene.prompt(row) for row in kept]
        asked = set[int]().union(*(hygiene.overlap(key, items, prompts).rows for key, items in kept_out.items()))
        kept = [row for place, row in enumerate(kept) if place not in asked]
        dropped["in_evaluation"] = len(asked)
    kept = scrubber.rows(kept)
    if spec.deduplicate != "off":
        texts = [hygiene.whole(row) for row in kept]
        exact = hygiene.exact_duplicates(texts)
        alike = exact | (hygiene.near_duplicates(texts) if spec.deduplicate == "near" else {})
        kept = [row for place, row in enumerate(kept) if place not in alike]
        dropped.update({"duplicate": len(exact), "near_duplicate": len(alike) - len(exact)})
    return replace(rows, conversations=kept, dropped=rows.dropped + dropped)


def _taken(
    spec: DataSpec, encoder: Encoder, rows: sources.Rows, order: Sequence[int], num_leaked: int
) -> tuple[Chosen, dict[str, int]]:
    """Return the training rows of the source, and how many rows every other part is to have: together the size asked
    for."""
    taken: dict[int, Example] = {}
    total = spec.num_examples
    if total is None:
        taken = _take(spec, encoder, order, None)
        _require(taken, None, "data.num_examples", rows, encoder.dropped, spec)
        total = len(taken)
    sizes = spec.part_sizes(total)
    others = {name: count for name, count in (sizes | {"leaks": num_leaked}).items() if count}
    wanted = total - sum(others.values())
    said = ", ".join(f"{count} rows of {name}" for name, count in others.items())
    if wanted < bool(num_leaked or sizes["repeats"]):
        raise DataError(
            f"data.num_examples is {spec.num_examples}, but must be more than what takes the place of rows of "
            f"data.source, {said}; ask for more, or lower the shares"
        )
    if spec.num_examples is None:
        taken = dict(list(taken.items())[:wanted])
    else:
        taken = _take(spec, encoder, order, wanted)
        name = "data.num_examples" + (f" less {said}" if others else "")
        _require(taken, wanted, name, rows, encoder.dropped, spec)
    return Chosen(taken, {place: rows.conversations[place] for place in taken}), sizes


def _take(spec: DataSpec, encoder: Encoder, order: Sequence[int], wanted: int | None) -> dict[int, Example]:
    """Return the first usable rows of an order by their places; all for None."""
    if spec.stratify == "off":
        return _kept(encoder, order, wanted)
    plan, rows = by_task(order, encoder.conversations)
    wanted, end = len(order) if wanted is None else wanted, 0
    taken: dict[str, dict[int, Example]] = {task: {} for task in rows}
    # A row that cannot be used makes room for the next of its task, or where there is none for the next in line.
    while end < len(plan) and (lacking := wanted - sum(map(len, taken.values()))):
        end += lacking
        for task, asked in Counter(plan[:end]).items():
            rest = [place for place in rows[task] if place not in encoder.seen]
            taken[task] |= _kept(encoder, rest, asked - len(taken[task]))
    queues = {task: iter(kept.items()) for task, kept in taken.items()}
    return dict(row for task in plan[:end] if (row := next(queues[task], None)))


def _kept(encoder: Encoder, order: Sequence[int], wanted: int | None) -> dict[int, Example]:
    before = len(encoder.kept)
    examples = encoder.take(order, wanted)
    return dict(zip(encoder.kept[before:], examples, strict=True))


class _Other(NamedTuple):
    """A part of the training rows that comes from another source."""

    name: str
    source: DataSource | None
    share: str
    """The field and its value."""
    order: Callable[[int], list[int]]
    """Of so many rows."""


def _other_sources(spec: DataSpec, seed: int) -> Iterator[_Other]:
    share = f"data.replay_share {spec.replay_share!r}"
    yield _Other("replay", spec.replay_source, share, lambda num_rows: replay_order(num_rows, seed))
    for number, part in enumerate(spec.mixture):
        share = f"data.mixture.{number}.share {part.share!r}"
        yield _Other(f"mixture.{number}", part.source, share, partial(mixture_order, seed=seed, number=number))


def _read(
    other: _Other, spec: DataSpec, store: Store | None, kept_out: Mapping[str, Mapping[str, str]], scrubber: Scrubber
) -> sources.Rows:
    if other.source is None:
        raise DataError(f"data.replay_source is None, but must be a source for {other.share}; name one or ask for 0.0")
    return _cleaned(sources.read_rows(other.source, store), spec, kept_out, scrubber)


def _from_source(other: _Other, num_rows: int, encoder: Encoder, read: Callable[[], sources.Rows]) -> list[Example]:
    """Return rows of another source, which is read if any are wanted; what is dropped is counted beside the rest.

    Raises:
        DataError: there is no source, or it has too few usable rows.
    """
    if not num_rows:
        return []
    rows = read()
    encoder.chat.require(rows.conversations)
    dropped = Counter(rows.dropped)
    taken = _others(other.name, rows.conversations, other.order(len(rows.conversations)), num_rows, encoder, dropped)
    _require(taken, num_rows, f"{other.share} in rows", rows, dropped)
    if other.name == "replay":
        return taken
    return [replace(example, row_id=f"{other.name}/{example.row_id}") for example in taken]


def _others(
    name: str,
    conversations: Sequence[Conversation],
    order: Sequence[int],
    num_rows: int | None,
    encoder: Encoder,
    dropped: Counter[str] | None = None,
) -> list[Example]:
    """Return the first usable rows of an order that are not of the source; what is counted of them is added up."""
    own = Encoder(encoder.spec, encoder.chat, conversations, Counter() if dropped is None else dropped)
    taken = own.take(order, num_rows)
    encoder.dropped.update({f"{name} {reason}": count for reason, count in own.dropped.items()})
    encoder.num_truncated += own.num_truncated
    encoder.num_ends_lost += own.num_ends_lost
    return taken


def _require(
    taken: Sized,
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
    scrubber: Scrubber,
    chosen: Chosen,
    parts: Mapping[str, Sequence[Example]],
    rows_to_train: Sequence[Example],
    validation: Sequence[Example],
) -> DataSummary:
    train = [*chosen.examples.values(), *(example for part in parts.values() for example in part)]
    num_tokens = _num_tokens(train)
    num_loss_tokens = sum(int(np.count_nonzero(example.loss_weights)) for example in train)
    own = chosen.conversations.values()
    prompts, said = sum(row.prompt_length for row in own), spec.instructions == "kept"
    beside = {name: part for name, part in parts.items() if part and name != "replay"}
    return DataSummary(
        rows_sha256=rows_sha256(rows_to_train, validation),
        num_rows_read=rows.num_read,
        num_rows_dropped=dict(sorted(encoder.dropped.items())),
        num_train=len(train),
        num_validation=len(validation),
        num_truncated=encoder.num_truncated,
        completion_prompt_ratio=sum(row.completion_length for row in own) / prompts if prompts and said else None,
        mean_tokens=num_tokens / len(train),
        loss_token_share=num_loss_tokens / num_tokens,
        template_sha256=chat.sha256,
        num_replay_rows=len(parts["replay"]),
        num_replay_tokens=_num_tokens(parts["replay"]),
        num_part_rows={name: len(part) for name, part in beside.items()},
        num_part_tokens={name: _num_tokens(part) for name, part in beside.items()},
        num_marked=dict(chosen.num_marked),
        num_scrubbed=dict(sorted(scrubber.num_hits.items())),
        num_rows_scrubbed=dict(sorted(scrubber.num_rows.items())),
        mask_engine="offsets_and_prefixes" if chat.is_fast else "prefixes",
        num_packed_rows=len(rows_to_train) if spec.is_packed else None,
        pack_fill=packing.fill(rows_to_train, spec.max_length) if spec.is_packed else None,
    )


def _num_tokens(examples: Iterable[Example]) -> int:
    return sum(len(example.input_ids) for example in examples)


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
