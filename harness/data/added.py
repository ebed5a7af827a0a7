"""Markers of a template that a tokenizer lacks, added to it as special tokens.

Invariant: the tokenizer that is handed in stays as it is, and every token that it has keeps its id. What does not live
here: which markers a template writes (templates.py), rows of the model for them (harness/models/vocabulary.py).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from harness.data.templates import MARKERS, OWN
from harness.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def with_markers(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> tuple[PreTrainedTokenizerBase, dict[str, int], tuple[int, ...]]:
    """Return a tokenizer that reads every marker of a template as one token, the ids of those that the given one does
    not read so, and which of these ids are new.

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
        return tokenizer, {}, ()
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
    return extended, {marker: vocabulary[marker] for marker in lacking}, tuple(sorted(new.values()))


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
    read = list(tokenizer(marker, add_special_tokens=False, verbose=False)["input_ids"])
    return token != tokenizer.unk_token_id and read == [token]
