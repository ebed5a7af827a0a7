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
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.data import control
from harness.data.templates import MARKERS, OWN
from harness.errors import DataError
from harness.records.store import disk_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS = ("bos_token", "eos_token", "unk_token", "pad_token")
"""Control tokens that are no markers, unless a template spells one."""
_SET_LATER = (
    "name_or_path", "padding_side", "truncation_side", "split_special_tokens", "clean_up_tokenization_spaces",
    "model_input_names",
)  # fmt: skip
"""What may have been set on a tokenizer since it was loaded, which saving it leaves out."""
_NUM_SHOWN = 5
"""Markers that a refusal names."""
_VOCABULARIES = ("vocab.json", "added_tokens.json")
_HOLD_TOKENS = ("_token", "_tokens", "_tokens_decoder")
"""Endings of names of settings that name tokens."""


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
        DataError: the tokenizer cannot be told to, or has no other tokens for what a marker says.
    """
    names = _new_names(tokenizer, own)
    if not names:
        return tokenizer, Changed()
    copied = _copied(tokenizer, names)
    known, vocabulary = tokenizer.get_vocab(), copied.get_vocab()
    kept = {names.get(token, token): number for token, number in known.items()} == vocabulary
    kept = kept and sorted(copied.all_special_ids) == sorted(tokenizer.all_special_ids)
    kept = kept and all(getattr(copied, f"{name}_id") == getattr(tokenizer, f"{name}_id") for name in _WORDS)
    if not kept or not all(_is_read_in_pieces(copied, marker, known[marker]) for marker in names):
        raise _refusal(tokenizer, names)
    return copied, Changed(made_text=tuple(sorted(names)))


def _refusal(tokenizer: PreTrainedTokenizerBase, names: Mapping[str, str]) -> DataError:
    first = sorted(names)[:_NUM_SHOWN]
    more = f" and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return DataError(
        f"data.markers is 'text', but must be 'as_is' because this base's {type(tokenizer).__name__} cannot be "
        f"made to read {', '.join(first)}{more} as text; name a template without them"
    )


def _is_read_in_pieces(tokenizer: PreTrainedTokenizerBase, marker: str, token: int) -> bool:
    """Return whether a marker is read without its own token, and whole, unless the tokenizer says that it is not."""
    ids = _ids(tokenizer, marker)
    read = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    is_whole = "".join(read.split()).casefold() == "".join(marker.split()).casefold()
    return token not in ids and (is_whole or tokenizer.unk_token_id in ids)


def _new_names(tokenizer: PreTrainedTokenizerBase, own: str | None) -> dict[str, str]:
    """Return a name for every token that is a marker; what is one character long is a letter of other texts."""
    spelled = {marker for markers in MARKERS.values() for marker in markers}
    words = {str(token) for name in _WORDS if (token := getattr(tokenizer, name)) is not None}
    words = {word for word in words - spelled if word not in (own or "")}
    known = tokenizer.get_vocab()
    added = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
    markers = added & control.tokens(tokenizer)
    markers |= {marker for marker in spelled if marker in known and _is_token(tokenizer, marker)}
    numbers = {marker: known[marker] for marker in markers - words if len(marker) > 1}
    return {marker: _unused(known, n) for marker, n in numbers.items() if marker.strip("<>") != _reserved(n)[1:-1]}


def _unused(known: Mapping[str, int], number: int) -> str:
    name = _reserved(number)
    while name in known:
        name = f"<{name}>"
    return name


def _reserved(number: int) -> str:
    return f"<|reserved_{number}|>"


# -- a copy under other names -----------------------------------------------------------------------------------------


def _copied(tokenizer: PreTrainedTokenizerBase, names: Mapping[str, str]) -> PreTrainedTokenizerBase:
    with disk_errors(Path(gettempdir())), TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in Path(folder).glob("*.json"):
            tree = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(_file(path.name, tree, names)))
        try:
            copied: Any = type(tokenizer).from_pretrained(folder, local_files_only=True)
        except Exception as fault:  # what a tokenizer raises on files that it cannot read is its own affair
            raise _refusal(tokenizer, names) from fault
    for name in _SET_LATER:
        setattr(copied, name, getattr(tokenizer, name))
    return copied


def _file(name: str, tree: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return what a file of a tokenizer's holds with other names for some tokens."""
    if name == "tokenizer.json":
        processor = {"post_processor": _processor(tree["post_processor"], names)}
        added = [token | {"content": names.get(token["content"], token["content"])} for token in tree["added_tokens"]]
        return tree | processor | {"added_tokens": added, "model": _model(tree["model"], names)}
    if name in _VOCABULARIES:
        return {names.get(token, token): number for token, number in tree.items()}
    # tokenizer_config.json and special_tokens_map.json
    return {held: _values(value, names) if held.endswith(_HOLD_TOKENS) else value for held, value in tree.items()}


def _values(tree: Any, names: Mapping[str, str]) -> Any:
    if isinstance(tree, str):
        return names.get(tree, tree)
    if isinstance(tree, dict):
        return {name: _values(held, names) for name, held in tree.items()}
    return [_values(held, names) for held in tree] if isinstance(tree, list) else tree


def _model(model: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a model in which no text merges into what has another name."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        changed: dict[str, Any] = {"vocab": {names.get(token, token): n for token, n in vocabulary.items()}}
    else:
        changed = {"vocab": [[names.get(token, token), score] for token, score in vocabulary]}
    if model.get("unk_token"):
        changed["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
        changed["merges"] = [(a, b) for a, b in pairs if not (a in names or b in names or a + b in names)]
    return model | changed


def _processor(tree: Any, names: Mapping[str, str]) -> Any:
    """Return what a Rust tokenizer puts around texts, or a part of it."""
    if isinstance(tree, list):
        return [_processor(part, names) for part in tree]
    if not isinstance(tree, dict):
        return tree
    changed = {name: _processor(tree[name], names) for name in ("processors", "single", "pair") if name in tree}
    for name in tree.keys() & {"cls", "sep"}:
        token, number = tree[name]
        changed[name] = [names.get(token, token), number]
    if "SpecialToken" in tree:
        token = tree["SpecialToken"]
        changed["SpecialToken"] = token | {"id": names.get(token["id"], token["id"])}
    if "special_tokens" in tree:
        tokens = tree["special_tokens"].items()
        changed["special_tokens"] = {names.get(name, name): _values(token, names) for name, token in tokens}
    return tree | changed
