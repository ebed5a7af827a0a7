"""What `data.markers` makes of a template's markers in the tokenizer of a base: tokens of their own, or text.

Invariant: the tokenizer that is handed in stays as it is, every token that it has keeps its id, and a copy that differs
reads whatever it is given as training does, so that saving it is enough. What does not live here: which markers a
template writes (templates.py), rows of the model for new ones (harness/models/vocabulary.py).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.data import control
from harness.data.templates import MARKERS, OWN
from harness.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RUST = "tokenizer.json"
_WORDS = ("bos_token", "eos_token", "unk_token", "pad_token")
"""Control tokens that are no markers, unless a template spells one."""


class Changed(NamedTuple):
    """What a tokenizer reads otherwise than the base's."""

    made_tokens: Mapping[str, int] = {}
    """Marker that is one token and was none -> its id."""
    added: tuple[int, ...] = ()
    """Those of these ids that the base's tokenizer does not have: nothing was trained on them yet."""
    made_text: tuple[str, ...] = ()
    """Markers that are text and were one token each."""


# -- as tokens --------------------------------------------------------------------------------------------------------


def as_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[PreTrainedTokenizerBase, Changed]:
    """Return a tokenizer that reads every marker of a template as one token, and what it then reads otherwise.

    It is the very tokenizer where that has them all, and else a copy that was given those it lacks. A marker that the
    vocabulary holds, but that is read in pieces, keeps its id, which is not new.

    Args:
        tokenizer: of the base.
        template: the name of a template.

    Raises:
        DataError: the template is not named, or has no markers, or the tokenizer takes none.
    """
    _require_markers(template)
    lacking = [marker for marker in MARKERS[template] if not _is_token(tokenizer, marker)]
    if not lacking:
        return tokenizer, Changed()
    from tokenizers import AddedToken

    extended: Any = copy.deepcopy(tokenizer)
    extended.add_tokens([AddedToken(marker, special=True, normalized=False) for marker in lacking], special_tokens=True)
    known, vocabulary = tokenizer.get_vocab(), extended.get_vocab()
    new = {marker: vocabulary[marker] for marker in lacking if marker not in known}
    # A vocabulary with gaps hands out an id by its length, which may be another token's.
    if set(new.values()) & set(known.values()) or not all(_is_token(extended, marker) for marker in lacking):
        raise DataError(
            f"data.markers is 'tokens', but must be 'as_is' or 'text' because this base's tokenizer cannot be given "
            f"{', '.join(lacking)} as tokens of their own; name a template whose markers it has"
        )
    return extended, Changed({marker: vocabulary[marker] for marker in lacking}, tuple(sorted(new.values())))


def _require_markers(template: str) -> None:
    if MARKERS.get(template):
        return
    why = "is written for the tokens that the tokenizer has" if template == OWN else "has no markers"
    raise DataError(
        f"data.markers is 'tokens', but must be 'as_is' or 'text' because data.template {template!r} {why}; name one "
        f"of {', '.join(sorted(name for name, markers in MARKERS.items() if markers))}"
    )


def _is_token(tokenizer: PreTrainedTokenizerBase, marker: str) -> bool:
    token = tokenizer.convert_tokens_to_ids(marker)
    return token != tokenizer.unk_token_id and _ids(tokenizer, marker) == [token]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


# -- as text ----------------------------------------------------------------------------------------------------------


def as_text(tokenizer: PreTrainedTokenizerBase, own: str | None) -> tuple[PreTrainedTokenizerBase, Changed]:
    """Return a tokenizer that reads every marker as text, whoever wrote it, and what it then reads otherwise.

    It is the very tokenizer where that has no marker, and else a copy in which the tokens of markers go by names that
    nobody writes. So BOS and EOS, which a template takes from the tokenizer by name, stay tokens, also where a
    template spells them out and means a marker.

    Args:
        tokenizer: of the base.
        own: its own chat template, if it has one.

    Raises:
        DataError: the tokenizer cannot be told to.
    """
    names = _new_names(tokenizer, own)
    if not names:
        return tokenizer, Changed()
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in Path(folder).glob("*.json"):
            tree = json.loads(path.read_text(encoding="utf-8"))
            rewritten = _rust_renamed(tree, names) if path.name == _RUST else _renamed(tree, names)
            path.write_text(json.dumps(rewritten))
        copied = type(tokenizer).from_pretrained(folder, local_files_only=True)
    copied.chat_template = tokenizer.chat_template
    copied.name_or_path = tokenizer.name_or_path
    known, vocabulary = tokenizer.get_vocab(), copied.get_vocab()
    kept = {names.get(token, token): number for token, number in known.items()} == vocabulary
    if not kept or any(known[marker] in _ids(copied, marker) for marker in names):
        raise DataError(
            f"data.markers is 'text', but must be 'as_is' because this base's tokenizer, a {type(tokenizer).__name__}, "
            f"reads {', '.join(sorted(names))} as tokens whatever it is told; name a template without them"
        )
    return copied, Changed(made_text=tuple(sorted(names)))


def _new_names(tokenizer: PreTrainedTokenizerBase, own: str | None) -> dict[str, str]:
    """Return a name for every token that is a marker."""
    spelled = {marker for markers in MARKERS.values() for marker in markers}
    words = {str(token) for name in _WORDS if (token := getattr(tokenizer, name)) is not None}
    words = {word for word in words - spelled if word not in (own or "")}
    added = {str(token.content): number for number, token in tokenizer.added_tokens_decoder.items()}
    control_tokens = control.markers(tokenizer)
    flagged = {marker for marker in added if control_tokens.fullmatch(marker)}
    markers = {marker: added[marker] for marker in (flagged | spelled & set(added)) - words}
    known = tokenizer.get_vocab()
    return {marker: _unused(known, n) for marker, n in markers.items() if marker != _reserved(n)}


def _unused(known: Mapping[str, int], number: int) -> str:
    name = _reserved(number)
    while name in known:
        name = f"<{name}>"
    return name


def _reserved(number: int) -> str:
    return f"<|reserved_{number}|>"


def _renamed(tree: Any, names: Mapping[str, str]) -> Any:
    """Return a tree of JSON in which other names stand for some, in values as in keys."""
    if isinstance(tree, str):
        return names.get(tree, tree)
    if isinstance(tree, dict):
        return {names.get(name, name): _renamed(held, names) for name, held in tree.items()}
    return [_renamed(held, names) for held in tree] if isinstance(tree, list) else tree


def _rust_renamed(tree: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a Rust tokenizer with other names, in which no text merges into what has one."""
    model = dict(tree["model"])
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model.pop("merges", ())]
    kept = [(one, two) for one, two in merges if not (one in names or two in names or one + two in names)]
    model = _renamed(model, names) | ({"merges": kept} if "merges" in tree["model"] else {})
    parts = {name: _renamed(tree[name], names) for name in ("added_tokens", "post_processor") if name in tree}
    return tree | parts | {"model": model}
