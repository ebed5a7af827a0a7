"""A tokenizer with the one chat template that a trial renders everything with.

Invariant: training, evaluation and the saved tokenizer render through the same source by the same function
(`apply_chat_template`), and text that the template wrote is encoded without further special tokens, so that BOS is
there exactly once or, as the template says, not at all; what people typed is text, even where it spells a control
token (control.py). What does not live here: the named templates (templates.py), which tokens are trained on (masks.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.data import bounds, control, probing
from harness.data.control import Encoded
from harness.data.conversations import Conversation, Message
from harness.data.markers import Changed, as_text, as_tokens
from harness.data.offsets import EncodingOffsets
from harness.data.templates import MARKERS, OWN, TEMPLATES, UserEnd, with_frozen_date, with_user_end
from harness.errors import DataError, unknown_name
from harness.spec import DataSpec, EvalSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLE_NAME = re.compile("assistant|model|response", re.IGNORECASE)
_OTHER_NAME = "helper"
"""What a renamed tag calls the assistant: no published template does."""


@dataclass(frozen=True, eq=False)
class ChatFormat:
    """How conversations become text and text becomes tokens."""

    tokenizer: PreTrainedTokenizerBase
    """Its `chat_template` is `source`, led by `system_turn`: saving it saves the template."""
    name: str
    source: str
    """Jinja, dates frozen."""
    sha256: str
    bos_token_id: int | None
    eos_token_id: int | None
    adds_bos: bool
    """Whether the tokenizer by itself puts BOS before raw text."""
    header: str = ""
    """What the generation prompt adds to open an assistant turn, without white space in front."""
    closing: str = ""
    """What follows an assistant's text to the end of its turn, the white space after the end marker included."""
    final: str = ""
    """What a template writes once after a whole conversation (EOS, in Phi-3's): part of no turn, never trained on."""
    stop_token_ids: tuple[int, ...] = ()
    """Any of these ends an answer: the special tokens of the end of turn, and EOS."""
    control_text: Literal["text", "drop", "as_is"] = "text"
    """What becomes of a control token that a message spells; see `DataSpec.control_text`."""
    markers: re.Pattern[str] = control.NONE
    """Finds the tokenizer's control tokens in text."""
    typed: re.Pattern[str] = control.NONE
    """Finds what a message is not expected to spell: these, and markers that `data.markers` made text."""
    lost: re.Pattern[str] = control.NONE
    """Finds characters that the tokenizer leaves out."""
    markers_are_text: bool = False
    """Whether markers are meant to be ordinary text."""
    changed: Changed = field(default_factory=Changed)
    """What this tokenizer reads otherwise than the base's."""
    system_turn: str | None = None
    """A system turn for conversations that have none."""
    own_source: str | None = None
    """What the name `tokenizer` stands for, where there is such a template."""
    template_date: str | None = None
    prompt_edit: Literal["none", "space", "newline", "renamed_tag", "no_system"] = "none"
    """What is changed about rendered prompts; see `EvalSpec.template_edit`."""

    @property
    def is_fast(self) -> bool:
        """Return whether the tokenizer knows which characters a token stands for."""
        return bool(self.tokenizer.is_fast)

    @property
    def end_of_turn(self) -> str:
        """Return the closing text that a model has to write to end its turn, as rendered."""
        return self.closing.rstrip()

    @property
    def turn_token_ids(self) -> tuple[int, ...]:
        """Return the stop tokens that end a turn, not a document; none where the end of turn is plain text."""
        written = set(self.encode(self.end_of_turn)) if self.end_of_turn else set[int]()
        return tuple(token for token in self.stop_token_ids if token in written)

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """Return the text that ends a turn where no stop token does: generation has to look for it."""
        text = self.end_of_turn
        return (self.readable(text),) if text and not self.turn_token_ids else ()

    @property
    def added(self) -> tuple[int, ...]:
        """Return the ids that the base's tokenizer lacked and this one has: nothing was trained on them yet."""
        return self.changed.added

    @property
    def added_tokens(self) -> list[str]:
        """Return the markers that the base's tokenizer lacked and this one has, in the order of their ids."""
        return [str(self.tokenizer.convert_ids_to_tokens(token)) for token in self.added]

    def warnings(self) -> list[str]:
        """Return a sentence for each thing that this tokenizer does not have and this template counts on, and for each
        that the saved tokenizer does otherwise than training.

        Markers that `data.markers` makes text are meant to be, and are not among the former.
        """
        found: list[str] = []
        spelled = [
            marker
            for marker in MARKERS.get(self.name, ())
            if not self.markers_are_text and marker in self.source and len(self.encode(marker)) > 1
        ]
        if spelled:
            found.append(
                f"data.template is {self.name!r}, whose {', '.join(spelled)} this tokenizer reads as plain text of "
                f"{' + '.join(str(len(self.encode(marker))) for marker in spelled)} tokens; name a template whose "
                "markers it has, unless that is meant"
            )
        if self.turn_ends:
            found.append(
                f"a turn ends in the plain text {self.turn_ends[0]!r}, which no stop token stands for: generation here "
                "looks for that text, and whoever serves the trained model must give it as a stop string"
            )
        if self.system_turn and self.tokenizer.chat_template == self.source:
            found.append(
                f"data.system_turn is {self.system_turn!r}, which the saved template cannot be made to write; whoever "
                "serves the trained model must send that turn"
            )
        return found

    def render(
        self,
        messages: Sequence[Message] | Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        is_guarded: bool = False,
    ) -> str:
        """Return a conversation as the template writes it; control tokens that a message spells are marked.

        Args:
            messages: at least one.
            add_generation_prompt: also open the assistant's turn.
            tools: functions the assistant may call.
            is_guarded: whether they are marked already, as in a row that `guarded_row` returned.

        Raises:
            jinja2.TemplateError, TypeError, ...: one of `probing.TEMPLATE_FAULTS`; the template refuses these messages.
        """
        said: list[dict[str, Any]] = [
            {name: value for name, value in message.items() if name != "weight"} for message in messages
        ]
        if add_generation_prompt and self.prompt_edit == "no_system":
            said = [message for message in said if message["role"] != "system"]
        elif self.system_turn and (not said or said[0]["role"] != "system"):
            said.insert(0, {"role": "system", "content": self.guarded(self.system_turn)})
        declared: Any = [dict(tool) for tool in tools] if tools else None
        with bounds.watched(self.name, "a conversation"):
            rendered = self.tokenizer.apply_chat_template(
                said if is_guarded else self.guarded(said),
                chat_template=self.source,
                tools=declared if is_guarded else self.guarded(declared),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        assert isinstance(rendered, str)
        return self._edited(rendered) if add_generation_prompt else rendered

    def _edited(self, prompt: str) -> str:
        if self.prompt_edit == "renamed_tag":
            header = _ROLE_NAME.sub(_OTHER_NAME, self.header)
            return prompt.removesuffix(self.header) + header
        return prompt + {"space": " ", "newline": "\n"}.get(self.prompt_edit, "")

    @property
    def unedited(self) -> ChatFormat:
        """Return the format whose prompts begin exactly as its conversations do."""
        return replace(self, prompt_edit="none") if self.prompt_edit != "none" else self

    @bounds.watching()
    def asking(self, spec: EvalSpec) -> ChatFormat:
        """Return the format that prompts of an evaluation are written with; what ends an answer stays the same.

        Raises:
            DataError: there is no such template, it is none that can be trained with, or it opens the assistant's
                turn without a name that could be another.
        """
        if spec.template is None and spec.template_edit == "none":
            return self
        asked = self if spec.template is None else self._rendered_with(spec.template)
        if spec.template_edit == "renamed_tag" and not _ROLE_NAME.search(asked.header):
            raise DataError(
                f"evals.template_edit is 'renamed_tag', but must be another one for the template {asked.name!r}, "
                f"whose generation prompt names no role: {asked.header!r}; name another edit or template"
            )
        sha256 = hashlib.sha256(f"{asked.source}\0{spec.template_edit}".encode()).hexdigest()
        return replace(asked, prompt_edit=spec.template_edit, sha256=sha256)

    def _rendered_with(self, name: str) -> ChatFormat:
        _require_template("evals.template", name, self.own_source)
        source = _source(self.tokenizer, name, self.own_source, self.template_date, adds_bos=self.adds_bos)
        other = replace(self, name=name, source=source)
        return replace(other, header=probing.turn_frame(other)[0])

    def guarded(self, said: Any) -> Any:
        """Return what people say with its control tokens marked as spelled, so that they are encoded as text."""
        return control.cleaned(said) if self.control_text == "as_is" else control.guarded(said, self.markers)

    def guarded_row(self, row: Conversation) -> Conversation:
        """Return a row with its control tokens marked as spelled: the row itself where there are none."""
        if control.is_plain([row.messages, row.tools], self.typed):
            return row
        return replace(row, messages=self.guarded(row.messages), tools=self.guarded(row.tools))

    def readable(self, text: str) -> str:
        """Return rendered text without marks."""
        return control.readable(text, self.markers)

    def spells_control(self, row: Conversation) -> bool:
        """Return whether a row spells a control token or a marker made text; never where they are taken as they are."""
        said = [*row.messages, *(row.tools or ()), row.text or ""]
        return self.control_text != "as_is" and control.found_in(said, self.typed)

    def tells_control_apart(self, row: Conversation, text: str) -> bool:
        """Return whether a rendered row that spells a control token still shows which ones the template wrote."""
        messages, tools = (control.unspelled(said, self.markers) for said in (row.messages, row.tools or ()))
        try:
            plain = self.render(messages, tools=tools)
        except probing.TEMPLATE_FAULTS:
            return False
        return control.tells_apart(text, plain, self.markers)

    def loses_part_of(self, text: str) -> bool:
        """Return whether a rendered or raw text holds a character that the tokenizer leaves out."""
        return self.lost is not control.NONE and self.lost.search(text) is not None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of rendered text; the template wrote every special token there is."""
        return self.encode_batch([text])[0].ids

    def encode_batch(self, texts: Sequence[str], *, with_offsets: bool = False) -> list[Encoded]:
        """Return the tokens of rendered texts.

        Args:
            texts: as rendered.
            with_offsets: also return which characters each token stands for, where the tokenizer can tell.
        """
        if not texts:
            return []
        with_offsets = with_offsets and self.is_fast
        if any(control.MARK in text for text in texts):
            return self._encode_marked(texts, with_offsets=with_offsets)
        return self._encode_whole(texts, with_offsets=with_offsets)

    def _encode_whole(self, texts: Sequence[str], *, with_offsets: bool) -> list[Encoded]:
        if not texts:
            return []
        if self.is_fast:
            core = _core(self.tokenizer)
            encode = core.encode_batch if with_offsets else core.encode_batch_fast
            found = encode(list(texts), add_special_tokens=False)
            return [Encoded(one.ids, EncodingOffsets(one) if with_offsets else None) for one in found]
        batch = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [Encoded(ids, None) for ids in batch["input_ids"]]

    def _encode_marked(self, texts: Sequence[str], *, with_offsets: bool) -> list[Encoded]:
        parts = {n: control.pieces(text, self.markers) for n, text in enumerate(texts) if control.MARK in text}
        parts = {n: cut for n, cut in parts.items() if any(piece.is_spelled for piece in cut)}
        found = {n: control.encode(self.tokenizer, cut) for n, cut in parts.items()}
        found = {n: encoded if with_offsets else Encoded(encoded.ids, None) for n, encoded in found.items()}
        others = [n for n in range(len(texts)) if n not in found]
        encoded = self._encode_whole([texts[n] for n in others], with_offsets=with_offsets)
        return [one for _, one in sorted({**found, **dict(zip(others, encoded, strict=True))}.items())]

    def can_encode(self, text: str) -> bool:
        """Return whether the tokenizer survives a text: some panic over a million spaces in a row."""
        try:
            self.encode(text)
        except BaseException as fault:  # a panic of tokenizers' Rust is no Exception
            if type(fault).__name__ != "PanicException":
                raise
            return False
        return True

    @bounds.watching()
    def require(self, conversations: Sequence[Conversation]) -> None:
        """Check that the template writes every role, call and function declaration that rows have.

        Raises:
            DataError: it lacks one, writes it differently for training than for generation, or leaves out, repeats or
            reorders turns of a conversation as long as those.
        """
        asked, longest, has_system = set[str](), 1, False
        for row in conversations:
            asked |= probing.features(row)
            longest = max(longest, sum(message["role"] == "user" for message in row.messages))
            has_system = has_system or bool(row.messages and row.messages[0]["role"] == "system")
        for feature in sorted(asked):
            probing.require_feature(self, feature)
        probing.require_every_turn(self, min(longest, probing.MAX_PROBED_EXCHANGES), has_system=has_system)


@bounds.watching()
def chat_format(tokenizer: PreTrainedTokenizerBase, spec: DataSpec) -> ChatFormat:
    """Return a tokenizer with the template that a data spec names, checked.

    Sets the tokenizer's `chat_template`; one whose markers are to be read otherwise is copied first.

    Raises:
        DataError: there is no such template, the tokenizer has none of its own, it asks the clock without a date, it
            has no end of users' turns to add or leave out, no markers to be tokens or cannot read them as text, it does
            not end, its generation prompt is not what it trains on, or it writes BOS twice.
    """
    own = _own_source(tokenizer)
    _require_template("data.template", spec.template, own)
    changed = Changed()
    if spec.markers == "tokens":
        tokenizer, changed = as_tokens(tokenizer, spec.template)
    if spec.markers == "text":
        tokenizer, changed = as_text(tokenizer, own)
    tokens = control.tokens(tokenizer)
    bos, eos = _token_id(tokenizer, "bos"), _token_id(tokenizer, "eos")
    adds_bos = _adds_bos(tokenizer, bos)
    source = _source(tokenizer, spec.template, own, spec.template_date, spec.end_after_user, adds_bos=adds_bos)
    tokenizer.chat_template = source
    chat = ChatFormat(
        tokenizer=tokenizer,
        name=spec.template,
        source=source,
        sha256=hashlib.sha256(source.encode()).hexdigest(),
        bos_token_id=bos,
        eos_token_id=eos,
        adds_bos=adds_bos,
        control_text=spec.control_text,
        markers=control.finding(tokens),
        typed=control.finding({*tokens, *changed.made_text}),
        lost=control.lost(tokenizer),
        markers_are_text=spec.markers == "text",
        changed=changed,
        system_turn=spec.system_turn,
        own_source=own,
        template_date=spec.template_date,
    )
    header, closing, final = probing.turn_frame(chat)
    chat = replace(chat, header=header, closing=closing, final=final)
    tokenizer.chat_template = probing.saved_source(chat)
    return replace(chat, stop_token_ids=probing.stop_token_ids(chat))


def _core(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the Rust tokenizer in the state in which transformers calls it for whole texts.

    Called without transformers, whose copies of every token's attributes take longer than the tokens.
    """
    core: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    if core.truncation is not None:
        core.no_truncation()
    if core.padding is not None:
        core.no_padding()
    if core.encode_special_tokens != tokenizer.split_special_tokens:
        core.encode_special_tokens = tokenizer.split_special_tokens
    return core


# -- which source -----------------------------------------------------------------------------------------------------


def _require_template(field: str, name: str, own: str | None) -> None:
    if name != OWN and name not in TEMPLATES:
        raise DataError(unknown_name(field, name, [OWN, *TEMPLATES]))
    if name == OWN and not own:
        raise DataError(
            f"{field} is {OWN!r}, but must be one of {', '.join(sorted(TEMPLATES))} because this base has no chat "
            "template of its own; name one"
        )


def _source(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    own: str | None,
    template_date: str | None,
    user_end: UserEnd = "as_written",
    *,
    adds_bos: bool,
) -> str:
    """Return the source of a template that there is, as conversations are rendered with it."""
    source = with_frozen_date((own if name == OWN else TEMPLATES[name]) or "", template_date)
    source = with_user_end(name, source, user_end)
    if name == OWN:
        bounds.require_bounded(name, source, tokenizer.special_tokens_map)
    elif adds_bos:
        source = _with_bos(tokenizer, source)
    return source


def _own_source(tokenizer: PreTrainedTokenizerBase) -> str | None:
    own = tokenizer.chat_template
    return own.get("default") if isinstance(own, dict) else own


def _token_id(tokenizer: PreTrainedTokenizerBase, name: Literal["bos", "eos"]) -> int | None:
    token = getattr(tokenizer, f"{name}_token_id")
    return None if token is None else int(token)


def _adds_bos(tokenizer: PreTrainedTokenizerBase, bos: int | None) -> bool:
    if bos is None:
        return False
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokenizer("a")["input_ids"][:1] == [bos] and bare[:1] != [bos]


def _with_bos(tokenizer: PreTrainedTokenizerBase, source: str) -> str:
    # Into the template and not in front of its output: whoever loads the saved tokenizer must get the same tokens.
    probe = [{"role": "user", "content": probing.QUESTION}]
    written = tokenizer.apply_chat_template(probe, chat_template=source, tokenize=False)
    return source if str(written).startswith(str(tokenizer.bos_token)) else "{{- bos_token }}" + source
