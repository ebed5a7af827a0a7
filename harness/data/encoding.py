"""From conversations to examples: rendered, encoded, weighed, cut.

Invariant: whether a row is usable does not depend on what its tokens weigh under a spec, so a loss-mask ablation
compares the same rows; every row that is not is counted under its reason. What does not live here: rendering (chat.py),
where turns are (masks.py), which rows are asked for (prepare.py).
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np

from harness.data import bounds, masks
from harness.data.chat import ChatFormat
from harness.data.conversations import Conversation, Dropped, Message, UnusableRow
from harness.data.example import Example
from harness.data.masks import PARTS, Located, Turn
from harness.data.spool import Spool
from harness.errors import DataError
from harness.spec import DataSpec

Count = Literal[
    "truncated",  # rows that were cut
    "ends_lost",  # tokens that end a turn and were cut away, as far as the tokenizer can tell
    "control_text",  # rows that were rendered in which a message or the raw text spells a control token
    "rewritten",  # rows that were rendered in which the template writes an answer in other words
]
BATCH_ROWS = 4096
BATCH_CHARACTERS = 2**20
"""After so many rows or rendered characters a batch goes to the tokenizer, while those after it are rendered. Who comes
back from it waits some thousandths of a second until the other pauses, so that small batches take longer."""
FIRST_CHARACTERS = 2**17
"""Of the first batch; each after it may have twice as many, so that the tokenizer begins early."""
TEMPLATE, TOOL, END_OF_TURN, TEXT = (PARTS.index(name) for name in ("template", "tool", "end_of_turn", "text"))


class Weighed(NamedTuple):
    """A whole row, T tokens, before it is cut."""

    row_id: str
    ids: np.ndarray
    """int64 [T]"""
    weights: np.ndarray
    """float32 [T]"""
    answered: tuple[tuple[int, int], ...]
    """Where the assistant's own text is, whatever that weighs: [first, past) of its tokens."""
    parts: np.ndarray | None
    """uint8 [T], see `Example.parts`."""


@contextmanager
def without_full_collections() -> Iterator[None]:
    """Keep Python from looking for garbage among all that the process holds, over and over as rows come in.

    With libraries loaded that is a million objects, a fifth of the time that rows take. Each batch collects its own.
    """
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()


class _Batch(NamedTuple):
    """Rows on their way through the tokenizer."""

    rows: dict[int, Conversation]
    """By their places in the source, in the order asked for."""
    rendered: dict[int, masks.Rendered]
    """Those that need a template."""
    encodings: Future[masks.Encodings]
    """Of the rendered ones."""


@dataclass
class Encoder:
    """Turns rows into examples, and keeps count."""

    spec: DataSpec
    chat: ChatFormat
    conversations: Sequence[Conversation]
    dropped: list[Dropped]
    origin: str = "source"
    """The field of the spec that named where rows come from."""
    counts: Counter[Count] = field(default_factory=Counter)
    """What became of the rows that are not dropped."""
    seen: set[int] = field(default_factory=set)
    """Rows that were looked at."""
    kept: list[int] = field(default_factory=list)
    """Rows that became an example, in order."""

    def take(self, order: Sequence[int], num_examples: int | None) -> Spool[Example]:
        """Return the first usable rows of an order, all of them for None."""
        taken: Spool[Example] = Spool()
        wanted = len(order) if num_examples is None else num_examples
        position = 0
        while (lacking := wanted - len(taken)) > 0 and position < len(order):
            taken.extend(self._encode(order[position : position + lacking]))
            position += lacking
        return taken

    def _encode(self, places: Sequence[int]) -> Iterator[Example]:
        """Yield the usable ones of some rows, in order.

        Tokenizers that are not written in Python leave it to others while they work, so that a batch is rendered and
        another one weighed meanwhile.
        """
        with ThreadPoolExecutor(1, "encoding") as thread:
            waiting: _Batch | None = None
            first, num_characters = 0, FIRST_CHARACTERS
            while first < len(places):
                gc.collect(0)  # inside `without_full_collections`, and of the kind that never calls for a full one
                batch = self._begun(places[first : first + BATCH_ROWS], thread, num_characters)
                num_characters = min(2 * num_characters, BATCH_CHARACTERS)
                if waiting is not None:
                    yield from self._examples(waiting)
                waiting, first = batch, first + len(batch.rows)
            if waiting is not None:
                yield from self._examples(waiting)

    def _begun(self, places: Sequence[int], thread: ThreadPoolExecutor, max_characters: int) -> _Batch:
        """Return the first rows, as many as make a batch, rendered where they need a template and with the tokenizer;
        what cannot be rendered is counted."""
        rows: dict[int, Conversation] = {}
        rendered: dict[int, masks.Rendered] = {}
        num_characters = 0
        with bounds.watching():
            for place in places:
                if num_characters >= max_characters:
                    break
                row = rows[place] = self.conversations[place]
                num_characters += len(row.text or "") + (len(row.tokens.ids) if row.tokens else 0)
                if row.text is None and not row.tokens and (text := self._rendered(row)) is not None:
                    rendered[place] = text
                    num_characters += len(text.text)
        self.seen.update(rows)
        return _Batch(rows, rendered, thread.submit(masks.encode, self.chat, list(rendered.values())))

    def _examples(self, batch: _Batch) -> Iterator[Example]:
        weighed = dict(self._weighed(batch))
        for place in batch.rows:
            if place not in weighed:
                continue
            try:
                example = self._example(weighed.pop(place))
            except UnusableRow as fault:
                self._drop(batch.rows[place], fault)
                continue
            self.kept.append(place)
            yield example

    def _weighed(self, batch: _Batch) -> Iterator[tuple[int, Weighed]]:
        """Yield rows with their places, by kind; what cannot be read is counted."""
        texts = {place: row for place, row in batch.rows.items() if row.text is not None}
        ready = {place: row for place, row in batch.rows.items() if row.tokens}
        if (texts or ready) and self.spec.instructions == "blank":
            raise DataError(
                "data.instructions is 'blank', but must be 'kept' for raw texts and rows of tokens, which have none"
            )
        located = masks.locate(self.chat, list(batch.rendered.values()), batch.encodings.result())
        for place, row in zip(batch.rendered, located, strict=True):
            conversation = batch.rows[place]
            row = _without_end(row) if conversation.ends_open else row
            self._require_parts(conversation, row)
            yield place, _from_turns(row, loss_weights(row, self.spec, turn_weights(conversation, self.spec)))
        for place, row in self._documents(texts).items():
            yield place, _from_turns(row, loss_weights(row, self.spec))
        for place, row in ready.items():
            try:
                yield place, self._from_tokens(row)
            except UnusableRow as fault:
                self._drop(row, fault)

    def _drop(self, row: Conversation, fault: UnusableRow) -> None:
        if fault.reason == "too_large" and self.spec.too_long == "raise":
            raise DataError(
                f"row {row.row_id!r} has more than {masks.MAX_CHARACTERS} characters, but must have at most as many "
                "to be encoded; take it out, or set data.too_long to a policy that leaves it out"
            )
        self.dropped.append(Dropped(row.row_id, fault.reason, self.origin))

    def _require_parts(self, conversation: Conversation, row: Located) -> None:
        """Refuse to train on a prompt with tool results where the tokenizer cannot tell them from the rest of it."""
        has_results = any(message["role"] == "tool" for message in conversation.messages)
        if has_results and self.spec.prompt_loss_weight and row.parts is None:
            raise DataError(
                f"data.prompt_loss_weight is {self.spec.prompt_loss_weight!r}, but must be 0.0 for rows with tool "
                "results on a slow tokenizer, which cannot tell them from the rest of the prompt"
            )

    def _rendered(self, row: Conversation) -> masks.Rendered | None:
        shown = without_instructions(row) if self.spec.instructions == "blank" else row
        try:
            _require_weight(shown)
            rendered = masks.render(self.chat, shown)
            self.counts["control_text"] += rendered.spells_control
            self.counts["rewritten"] += rendered.rewrites
            return rendered
        except UnusableRow as fault:
            self._drop(row, fault)
            return None

    def _documents(self, rows: Mapping[int, Conversation]) -> dict[int, Located]:
        """Encode raw texts: BOS where the tokenizer would put one, EOS at the end, everything trained on.

        One that the tokenizer cannot read whole is counted, and one that spells a control token is treated as a
        message that does.
        """
        bos, eos = self.chat.bos_token_id, self.chat.eos_token_id
        whole = {place: row for place, row in rows.items() if self._is_readable(row)}
        encoded = self.chat.encode_batch([self.chat.guarded(row.text) for row in whole.values()])
        documents: dict[int, Located] = {}
        for (place, row), (ids, _) in zip(whole.items(), encoded, strict=True):
            first = [bos] if bos is not None and self.chat.adds_bos and ids[:1] != [bos] else []
            last = [eos] if eos is not None else []
            turn = Turn(0, 0, len(first) + len(ids), len(first) + len(ids) + len(last))
            parts = bytes([TEMPLATE] * len(first) + [TEXT] * len(ids) + [END_OF_TURN] * len(last))
            documents[place] = Located(row.row_id, [*first, *ids, *last], (turn,), parts)
        return documents

    def _is_readable(self, row: Conversation) -> bool:
        if len(row.text or "") > masks.MAX_CHARACTERS:
            self._drop(row, UnusableRow("too_large"))
            return False
        spells_control = self.chat.spells_control(row)
        if spells_control and self.chat.control_text == "drop":
            self._drop(row, UnusableRow("control_token_in_text"))
            return False
        if self.chat.loses_part_of(row.text or ""):
            self._drop(row, UnusableRow("tokenizer_loses_text"))
            return False
        if len(row.text or "") > masks.LARGE and not self.chat.can_encode(row.text or ""):
            self._drop(row, UnusableRow("tokenizer_refuses"))
            return False
        self.counts["control_text"] += spells_control
        return True

    def _from_tokens(self, row: Conversation) -> Weighed:
        assert row.tokens is not None
        if min(row.tokens.ids) < 0 or max(row.tokens.ids) >= len(self.chat.tokenizer):
            raise UnusableRow("not_in_vocabulary")
        ids = np.array(row.tokens.ids, dtype=np.int64)
        trained = np.frombuffer(row.tokens.trained, dtype=bool)
        weights = trained.astype(np.float32)  # a label of -100 is no prompt: the row itself says it is not trained on
        weights[0] = 0.0
        edges = np.flatnonzero(np.diff(trained, prepend=False, append=False)).tolist()
        return Weighed(row.row_id, ids, weights, tuple(zip(edges[::2], edges[1::2], strict=True)), None)

    def _example(self, row: Weighed) -> Example:
        ids, weights, parts = row.ids, row.weights, row.parts
        second, past = 1, len(ids)  # nothing predicts the first
        is_cut = past > self.spec.max_length
        if is_cut:
            kept = self._cut(row)
            second, past = int(kept[1]), int(kept[-1]) + 1
            ids, weights, parts = ids[kept], weights[kept], None if parts is None else parts[kept]
            weights[0] = 0.0
        if not any(max(start, second) < min(stop, past) for start, stop in row.answered):
            raise UnusableRow("no_trained_token")
        if is_cut:
            self.counts["truncated"] += 1
            if row.parts is not None and parts is not None:
                self.counts["ends_lost"] += int(np.sum(row.parts == END_OF_TURN) - np.sum(parts == END_OF_TURN))
        return Example(row.row_id, ids, weights, parts)

    def _cut(self, row: Weighed) -> np.ndarray:
        """Return the positions of a row that is too long which are kept."""
        length, most = len(row.ids), self.spec.max_length
        if self.spec.too_long == "drop":
            raise UnusableRow("too_long")
        if self.spec.too_long == "raise":
            raise DataError(
                f"row {row.row_id!r} has {length} tokens, but must have at most data.max_length, {most}; raise that or "
                "set data.too_long to 'drop', 'truncate_right' or 'truncate_left'"
            )
        if self.spec.too_long == "truncate_right":
            return np.arange(most)
        leads = self._begins_in_bos(row)
        return np.array([0] * leads + list(range(length - most + leads, length)))

    def _begins_in_bos(self, row: Weighed) -> bool:
        """Return whether a row begins in BOS, put there by the tokenizer or the template, which a cut must leave there.

        A model never saw text that does not begin with it. Where it opens turns too, as SmolLM2's `<|im_start|>`, it
        is a part of the first turn and goes with it.
        """
        bos = self.chat.bos_token_id
        if bos is None or int(row.ids[0]) != bos:
            return False
        return self.chat.adds_bos or bos not in self.chat.encode(self.chat.header)


def _without_end(row: Located) -> Located:
    """Return a row that breaks off in its last turn, as one that was cut there on the right."""
    *before, last = row.turns
    parts = None if row.parts is None else row.parts[: last.stop]
    return Located(row.row_id, row.ids[: last.stop], (*before, last._replace(end=last.stop)), parts)


def _from_turns(row: Located, weights: np.ndarray) -> Weighed:
    answered = tuple((turn.start, turn.stop) for turn in row.turns)
    parts = None if row.parts is None else np.frombuffer(row.parts, dtype=np.uint8)
    return Weighed(row.row_id, np.array(row.ids, dtype=np.int64), weights, answered, parts)


def _require_weight(row: Conversation) -> None:
    if all(message.get("weight") == 0 for message in row.messages if message["role"] == "assistant"):
        raise UnusableRow("no_trained_token")


def without_instructions(row: Conversation) -> Conversation:
    """Return a conversation without system turns and functions in which users say nothing; its answers stay."""
    messages = [
        Message(role="user", content="") if message["role"] == "user" else message
        for message in row.messages
        if message["role"] != "system"
    ]
    return replace(row, messages=messages, tools=None)


def turn_weights(row: Conversation, spec: DataSpec) -> list[float | None]:
    """Return the weight of each of the assistant's turns, None for one that is context: it weighs as the prompt does,
    unless the data says 0."""
    places = [place for place, message in enumerate(row.messages) if message["role"] == "assistant"]
    first = places[-1]
    if spec.trained_turns == "all":
        first = 0
    elif spec.trained_turns == "completion" and row.num_prompt_messages is not None:
        first = row.num_prompt_messages
    weights = [row.messages[place].get("weight", 1.0) for place in places]
    return [weight if place >= first or weight == 0 else None for place, weight in zip(places, weights, strict=True)]


def loss_weights(row: Located, spec: DataSpec, weights_of_turns: Sequence[float | None] | None = None) -> np.ndarray:
    """Return the weight of the prediction of every token, float32 [T].

    The turn's own weight, 1 unless the data says otherwise, for the assistant's tokens - with the end of turn and the
    role header where the spec trains them - and `prompt_loss_weight` for every other, 0 for what tools return and for
    the first, which is predicted from nothing.

    Args:
        row: where turns are.
        spec: what is trained on.
        weights_of_turns: of each of the row's turns; None for one that is context.
    """
    weights = np.full(len(row.ids), spec.prompt_loss_weight, dtype=np.float32)
    if row.parts is not None and TOOL in row.parts:
        weights[np.frombuffer(row.parts, dtype=np.uint8) == TOOL] = 0.0
    for turn, weight in zip(row.turns, weights_of_turns or [1.0] * len(row.turns), strict=True):
        if weight is None:
            continue
        first = turn.header if spec.train_on_role_header else turn.start
        past = turn.end if spec.train_on_end_of_turn else turn.stop
        weights[first:past] = weight
    weights[:1] = 0.0
    return weights
