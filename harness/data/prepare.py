"""From a data spec to token rows with loss weights.

Invariant: a training set has exactly the size that was asked for, every row of it has a token of an answer, and which
rows are in it does not depend on what their tokens weigh, so a loss-mask ablation compares the same rows. What does not
live here: reading, choosing, encoding and packing, each a module.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from harness.data import hygiene, injection, packing, sources
from harness.data.chat import ChatFormat
from harness.data.conversations import Conversation, Dropped, Message, Reason, by_reason
from harness.data.encoding import Encoder, without_full_collections
from harness.data.example import Example
from harness.data.injection import Chosen
from harness.data.ledger import Part
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
from harness.data.spool import Spool
from harness.errors import DataError
from harness.identity import canonical_json
from harness.records.schema import DataSummary
from harness.records.store import Store
from harness.spec import DataSource, DataSpec

NUM_SAMPLE_PROMPTS = 4


@dataclass(frozen=True)
class PreparedData:
    """All that training needs to know of its data."""

    train: Sequence[Example]
    """Of packed data each row holds several."""
    validation: Sequence[Example]
    """Never packed."""
    sample_prompts: list[list[Message]]
    """Conversations up to where the assistant first speaks, the same for every seed and size."""
    summary: DataSummary
    num_ends_lost: int = 0
    """Tokens that end a turn and were cut away from training rows."""
    reads_itself_alone: bool = False
    """Whether examples are laid end to end, each attending to itself alone; if not, rows are padded."""
    examples: Sequence[Example] = ()
    """Those to train on, in training order, before packing."""
    parts: Sequence[Part] = ()
    """Where they come from, in the same order."""
    dropped: Sequence[Dropped] = ()
    """Rows that are not used, as `summary` counts them."""
    marks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Place in `examples` -> what was done on purpose to that training row: noised, styled, repeats, leaked."""

    @property
    def num_examples(self) -> int:
        """Return how many examples there are to train on, however many rows they share."""
        return self.summary.num_train


@without_full_collections()
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
    cleaning = _Cleaning(spec, kept_out or {}, Scrubber(spec.scrub), Counter())
    rows = _cleaned(sources.read_rows(spec.source, store), cleaning)
    chat.require(rows.conversations)
    encoder = Encoder(spec, chat, rows.conversations, list(rows.dropped))
    order = validation_order(len(rows.conversations))
    validation = encoder.take(order, spec.num_validation)
    _require(validation, spec.num_validation, "data.num_validation", rows, encoder.dropped)
    held = frozenset(encoder.kept)
    pool = sorted(set(range(len(rows.conversations))) - encoder.seen)
    encoder.counts.clear()  # counted over the training rows alone
    pool = with_completion_ratio(pool, rows.conversations, spec.completion_ratio)
    leaks = _leaks(spec, chat, leaked)
    ordered = in_proportion(training_order(pool, seed), rows.conversations, seed)
    chosen, sizes = _taken(spec, encoder, rows, ordered, len(leaks.examples))
    injection.spoil(chosen, pool, encoder, seed)
    own = Part("source", spec.source, cleaning.key, rows.conversations, chosen.places)
    repeats = injection.repeats(chosen, sizes["repeats"])
    repeated = replace(own, places=[chosen.places[number % len(chosen.places)] for number in range(len(repeats))])
    taken = [_Taken("repeats", repeats, repeated), leaks]
    for other in _others(spec, seed):
        if sizes[other.name]:
            taken.append(_from_source(other, sizes[other.name], chat, cleaning, store, held))
    taken = [one for one in taken if one.examples or (one.counted and one.counted.dropped)]
    train = chosen.examples if isinstance(chosen.examples, Spool) else Spool(chosen.examples)
    for one in taken:
        _add(one, train, encoder)
    prompts = (rows.conversations[index].first_prompt for index in order)
    rows_to_train = packing.packed(train, spec) if spec.is_packed else train
    return PreparedData(
        train=rows_to_train,
        validation=validation,
        sample_prompts=[prompt for prompt, _ in zip(filter(None, prompts), range(NUM_SAMPLE_PROMPTS), strict=False)],
        summary=_summary(spec, chat, rows, encoder, train, taken, rows_to_train, validation, chosen, cleaning),
        num_ends_lost=encoder.counts["ends_lost"],
        reads_itself_alone=spec.packing in ("padding_free", "isolated"),
        examples=train,
        parts=(own, *(one.part for one in taken)),
        dropped=encoder.dropped,
        marks=injection.marks(chosen, len(repeats), len(leaks.examples)),
    )


class _Cleaning(NamedTuple):
    """What is dropped from every source and replaced in it, whatever is chosen of the rest."""

    spec: DataSpec
    kept_out: Mapping[str, Mapping[str, str]]
    scrubber: Scrubber
    ignored_fields: Counter[str]
    """Field of messages that nothing reads -> rows of every source with something in it."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Return what names the rows of a source together with it."""
        asked = tuple((key, tuple(items.items())) for key, items in self.kept_out.items())
        return self.spec.deduplicate, asked if self.spec.decontaminate else (), self.spec.scrub


class _Taken(NamedTuple):
    """Training rows that take the place of rows of the source."""

    name: str
    examples: Sequence[Example]
    part: Part
    counted: Encoder | None = None
    """What encoded them, where it is not the encoder of the source."""


def _add(one: _Taken, train: Spool[Example], encoder: Encoder) -> None:
    """Add rows to the end, and what was counted of them to what was counted."""
    train.extend(one.examples)
    if one.counted is not None:
        encoder.dropped.extend(one.counted.dropped)
        encoder.counts.update(one.counted.counts)


def _cleaned(rows: sources.Rows, cleaning: _Cleaning, origin: str = "source") -> sources.Rows:
    """Return rows, scrubbed, without those that the spec drops whatever is chosen of the rest."""
    spec, kept_out, scrubber, ignored = cleaning
    ignored.update(rows.ignored_fields)
    kept, dropped, asked = rows.conversations, [one._replace(origin=origin) for one in rows.dropped], set[int]()

    def drop(places: Iterable[int], reason: Reason) -> None:
        nonlocal kept
        taken = set(places)
        dropped.extend(Dropped(kept[place].row_id, reason, origin) for place in sorted(taken))
        kept = Spool(row for place, row in enumerate(kept) if place not in taken) if taken else kept

    if spec.decontaminate:
        prompts = [hygiene.prompt(row) for row in kept]
        for key, items in kept_out.items():
            asked.update(hygiene.overlap(key, items, prompts).rows)
        drop(asked, "in_evaluation")
    if spec.scrub:
        kept = Spool(scrubber.rows(kept))
    if spec.deduplicate != "off":
        drop(hygiene.exact_duplicates([hygiene.whole(row) for row in kept]), "duplicate")
    if spec.deduplicate == "near":
        drop(hygiene.near_duplicates([hygiene.whole(row) for row in kept]), "near_duplicate")
    return replace(rows, conversations=kept, dropped=dropped)


def _taken(
    spec: DataSpec, encoder: Encoder, rows: sources.Rows, order: Sequence[int], num_leaks: int
) -> tuple[Chosen, dict[str, int]]:
    """Return the training rows of the source, and how many rows every other part is to have: together the size asked
    for."""
    places: list[int] = []
    train: Spool[Example] = Spool()
    total = spec.num_examples
    if total is None:
        places, train = _take(spec, encoder, order, None)
        _require(train, None, "data.num_examples", rows, encoder.dropped, spec)
        total = len(train)
    sizes = spec.part_sizes(total)
    others = {name: count for name, count in (sizes | {"leaks": num_leaks}).items() if count}
    wanted = total - sum(others.values())
    said = ", ".join(f"{count} rows of {name}" for name, count in others.items())
    if wanted < bool(num_leaks or sizes["repeats"]):
        raise DataError(
            f"data.num_examples is {spec.num_examples}, but must be more than what takes the place of rows of "
            f"data.source, {said}; ask for more, or lower the shares"
        )
    if spec.num_examples is None:
        del places[wanted:]
        train.truncate(wanted)
    else:
        places, train = _take(spec, encoder, order, wanted)
        name = "data.num_examples" + (f" less {said}" if others else "")
        _require(train, wanted, name, rows, encoder.dropped, spec)
    return Chosen(places, train, rows.conversations), sizes


def _take(
    spec: DataSpec, encoder: Encoder, order: Sequence[int], wanted: int | None
) -> tuple[list[int], Spool[Example]]:
    """Return the first usable rows of an order and their places; all for None."""
    if spec.stratify == "off":
        return _kept(encoder, order, wanted)
    plan, rows = by_task(order, encoder.conversations)
    wanted, end = len(order) if wanted is None else wanted, 0
    taken = {task: (list[int](), Spool[Example]()) for task in rows}
    # A row that cannot be used makes room for the next of its task, or where there is none for the next in line.
    while end < len(plan) and (lacking := wanted - sum(len(places) for places, _ in taken.values())):
        end += lacking
        for task, asked in Counter(plan[:end]).items():
            rest = [place for place in rows[task] if place not in encoder.seen]
            places, examples = taken[task]
            more_places, more = _kept(encoder, rest, asked - len(places))
            places.extend(more_places)
            examples.extend(more)
    queues = {task: zip(*kept, strict=True) for task, kept in taken.items()}
    found, train = list[int](), Spool[Example]()
    for task in plan[:end]:
        for place, example in islice(queues[task], 1):
            found.append(place)
            train.append(example)
    return found, train


def _kept(encoder: Encoder, order: Sequence[int], wanted: int | None) -> tuple[list[int], Spool[Example]]:
    before = len(encoder.kept)
    examples = encoder.take(order, wanted)
    return encoder.kept[before:], examples


def _leaks(spec: DataSpec, chat: ChatFormat, leaked: Sequence[Conversation]) -> _Taken:
    """Return the evaluation items that can be trained on."""
    chat.require(leaked)
    encoder = Encoder(spec, chat, leaked, [], "leak_share")
    examples = encoder.take(range(len(leaked)), None)
    part = Part("leak_share", None, tuple(row.row_id for row in leaked), leaked, encoder.kept)
    return _Taken("leaks", examples, part, encoder)


class _Other(NamedTuple):
    """A part of the training rows that comes from another source."""

    name: str
    origin: str
    source: DataSource | None
    share: str
    """The field and its value."""
    order: Callable[[int], list[int]]
    """Of so many rows."""


def _others(spec: DataSpec, seed: int) -> Iterator[_Other]:
    share = f"data.replay_share {spec.replay_share!r}"
    yield _Other("replay", "replay_source", spec.replay_source, share, lambda num_rows: replay_order(num_rows, seed))
    for number, part in enumerate(spec.mixture):
        name, share = f"mixture.{number}", f"data.mixture.{number}.share {part.share!r}"
        yield _Other(name, name, part.source, share, partial(mixture_order, seed=seed, number=number))


def _from_source(
    other: _Other, num_rows: int, chat: ChatFormat, cleaning: _Cleaning, store: Store | None, held: Collection[int]
) -> _Taken:
    """Return so many rows of another source; where it is `data.source` once more, none that is set aside there.

    Raises:
        DataError: there is no source, or it has too few usable rows.
    """
    if other.source is None:
        raise DataError(f"data.replay_source is None, but must be a source for {other.share}; name one or ask for 0.0")
    rows = _cleaned(sources.read_rows(other.source, store), cleaning, other.origin)
    chat.require(rows.conversations)
    encoder = Encoder(cleaning.spec, chat, rows.conversations, list(rows.dropped), other.origin)
    is_own = canonical_json(other.source) == canonical_json(cleaning.spec.source)
    order = [place for place in other.order(len(rows.conversations)) if not (is_own and place in held)]
    examples: Sequence[Example] = encoder.take(order, num_rows)
    _require(examples, num_rows, f"{other.share} in rows", rows, encoder.dropped, num_held=len(held) * is_own)
    if other.name != "replay":  # rows of two sources may have one id
        examples = Spool(replace(example, row_id=f"{other.name}/{example.row_id}") for example in examples)
    part = Part(other.origin, other.source, cleaning.key, rows.conversations, encoder.kept)
    return _Taken(other.name, examples, part, encoder)


def _require(
    taken: Sized,
    asked: int | None,
    name: str,
    rows: sources.Rows,
    dropped: Sequence[Dropped],
    spec: DataSpec | None = None,
    *,
    num_held: int = 0,
) -> None:
    if len(taken) >= (1 if asked is None else asked):
        return
    parts = [f"the data has {rows.num_read} rows"]
    if spec:
        parts.append(f"less {spec.num_validation} for validation")
        if spec.completion_ratio != "any":
            parts.append(f"of which data.completion_ratio {spec.completion_ratio!r} keeps half")
    if num_held:
        parts.append(f"less {num_held} that are validated on")
    if dropped:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in by_reason(dropped).items())
        parts.append(f"less those dropped ({reasons})")
    rule = "there is no row to train on" if asked is None else f"must be at most {len(taken)}"
    raise DataError(f"{name} is {asked}, but {rule}: {', '.join(parts)}; ask for fewer or give more data")


# -- summary ----------------------------------------------------------------------------------------------------------


def _summary(
    spec: DataSpec,
    chat: ChatFormat,
    rows: sources.Rows,
    encoder: Encoder,
    train: Sequence[Example],
    taken: Sequence[_Taken],
    rows_to_train: Sequence[Example],
    validation: Sequence[Example],
    chosen: Chosen,
    cleaning: _Cleaning,
) -> DataSummary:
    num_tokens = num_loss_tokens = 0
    for example in train:
        num_tokens += len(example.input_ids)
        num_loss_tokens += int(np.count_nonzero(example.loss_weights))
    num_rows = {one.name: len(one.examples) for one in taken}
    num_tokens_of = {one.name: sum(len(example.input_ids) for example in one.examples) for one in taken}
    return DataSummary(
        rows_sha256=rows_sha256(rows_to_train, validation),
        num_rows_read=rows.num_read,
        num_rows_dropped=by_reason(encoder.dropped),
        num_train=len(train),
        num_validation=len(validation),
        num_truncated=encoder.counts["truncated"],
        completion_prompt_ratio=_completion_ratio(chosen.said) if spec.instructions == "kept" else None,
        mean_tokens=num_tokens / len(train),
        loss_token_share=num_loss_tokens / num_tokens,
        template_sha256=chat.sha256,
        num_replay_rows=num_rows.pop("replay", 0),
        num_replay_tokens=num_tokens_of.pop("replay", 0),
        num_part_rows=num_rows,
        num_part_tokens=num_tokens_of,
        num_marked=dict(chosen.num_marked),
        num_scrubbed=dict(sorted(cleaning.scrubber.num_hits.items())),
        num_rows_scrubbed=dict(sorted(cleaning.scrubber.num_rows.items())),
        mask_engine="offsets_and_prefixes" if chat.is_fast else "prefixes",
        num_packed_rows=len(rows_to_train) if spec.is_packed else None,
        num_control_text=encoder.counts["control_text"],
        ignored_fields=dict(sorted(cleaning.ignored_fields.items())),
        num_rewritten=encoder.counts["rewritten"],
        added_tokens=chat.added_tokens,
        pack_fill=num_tokens / (len(rows_to_train) * spec.max_length) if spec.is_packed else None,
    )


def _completion_ratio(rows: Iterable[Conversation]) -> float | None:
    said = prompted = 0
    for row in rows:
        said += row.completion_length
        prompted += row.prompt_length
    return said / prompted if prompted else None


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
