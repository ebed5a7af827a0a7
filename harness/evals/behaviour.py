"""The behaviour panel: what an answer looks like, whatever it says.

Invariant: every metric is of one answer, so a rate is the plain mean of its items' values; what an answer cannot tell
is nan, with the reason in `REASONS`. What does not live here: whether the answer is right, `end_of_turn` and `empty`
(generated.py); how much of it is copied (copying.py); which tasks have a panel (panel.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from harness.data import control, probing
from harness.data.conversations import Message
from harness.data.templates import MARKERS
from harness.evals.copying import TargetIndex, rouge_l, words
from harness.evals.normalise import normalise

if TYPE_CHECKING:
    from harness.data import ChatFormat

REPEATED_NGRAM = 4
LOOPED_NGRAM = 8
LOOPED_TIMES = 3

REASONS: dict[str, str] = {
    "rep_4": f"the answer has fewer than {REPEATED_NGRAM} words and marks",
    "length_ratio": "no reference with a word in it",
    "prompt_copy": "neither the prompt nor the answer has a word",
    "training_copy": "no training targets to compare with, or no word in the answer",
}
"""Metric -> why an answer has no value; the others always have one."""

_ROLE = re.compile(r"(?<![a-z])(?:user|human|system|assistant|model|inst|sys|instruction|response|q|a)(?![a-z])", re.I)
"""Tells which markers of a template name a role."""
_PLAIN_HEADER = re.compile(
    r"^[ \t>*]*(?:(?:user|human|assistant|system|ai)[ \t*]*:|#+ *(?:user|human|assistant|instruction|response)\b)",
    re.IGNORECASE | re.MULTILINE,
)
_PIECE = re.compile(r"\w+|[^\w\s]")
"""A word or a mark: `!!!!` repeats, too."""
_NO_WORD = re.compile(r"^\W+")
_SENTENCE_ENDS = frozenset(".!?\u3002\uff01\uff1f")


def measure(
    answer: str,
    raw: str,
    prompt: str,
    reference: str | None,
    *,
    num_tokens: int,
    hit_limit: bool,
    markers: Sequence[str],
    targets: TargetIndex | None,
) -> dict[str, float]:
    """Return `PANEL_METRICS` of one generated answer; the population is every answer whose logits were finite.

    run_on: 1 if the length limit ended the answer, or it begins with the reference and goes on; else 0. Less is better.
    role_leak: 1 if it holds a marker that names a role, or a line that begins like `User:` or `### Response`; else 0.
        Less is better.
    template_leak: 1 if `raw` holds any marker but the one that ended it; else 0. Less is better.
    rep_4: 1 - distinct 4-grams / 4-grams, of words and marks. Less is better; nan below 4.
    loop: 1 if one 8-gram occurs 3 times or more, overlaps counted; else 0, also where there is none. Less is better.
    num_tokens: of the answer, the one that ended it not counted. Neither is better.
    length_ratio: words of the answer / words of the reference. Neither is better; nan without a reference.
    prompt_copy: ROUGE-L (F1) of prompt and answer. Less is better; 0 for an empty answer, nan if both are.
    training_copy: words of the longest span shared with a training target / words of the answer. Less is better, within
        one length of answers: a word that training taught is a copy of 1. nan without targets or words.

    Args:
        answer: the text without special tokens, cut where it ended.
        raw: the same uncut and with special tokens; what ended it may be its last.
        prompt: what the user asked: the last turn, or the raw text.
        reference: the right answer.
        num_tokens: length of the answer.
        hit_limit: whether the length limit ended it.
        markers: what the template writes around messages; see `markers_of`.
        targets: what was trained on; None for a base.

    Source: role and template leakage, repetition and copying as defined in teaching material on instruction tuning and
        in Shi et al., arXiv:2405.14394, section 4 (copying); rep-n: Welleck et al., arXiv:1908.04319, section 6.
    """
    said, asked = words(answer), words(prompt)
    pieces = _PIECE.findall(answer.casefold())
    return {
        "run_on": float(hit_limit or _goes_on(answer, reference)),
        "role_leak": float(_leaks_role(answer, raw, tuple(markers))),
        "template_leak": float(_leaks_marker(raw, tuple(markers), hit_limit=hit_limit)),
        "rep_4": _repeated_share(pieces),
        "loop": float(_loops(pieces)),
        "num_tokens": float(num_tokens),
        "length_ratio": _ratio(len(said), len(words(reference or ""))),
        "prompt_copy": rouge_l(asked, said),
        "training_copy": math.nan if targets is None else _ratio(targets.longest_span(said), len(said)),
    }


def markers_of(chat: ChatFormat) -> tuple[str, ...]:
    """Return what no answer should hold: control tokens, the template's markers, and what opens and closes its turns.

    A template that writes turns as plain text (`### Response:`) has no tokens of its own, but headers as well.
    """
    written = {*MARKERS.get(chat.name, ()), *control.tokens(chat.tokenizer)}
    written |= {_last_line(chat, text) for text in (*_openings(chat), chat.header, chat.end_of_turn)}
    return tuple(sorted(filter(None, written), key=lambda marker: (-len(marker), marker)))


def _openings(chat: ChatFormat) -> Iterator[str]:
    """Yield what the template writes before a system and a user's turn."""
    question, rule = probing.EXCHANGE[0], Message(role="system", content="Probing rule 7302")
    for messages in ([question], [rule, question]):
        try:
            text = chat.readable(chat.render(messages))
        except probing.TEMPLATE_FAULTS:  # templates without a system turn
            continue
        for message in messages:
            before, _, text = text.partition(str(message["content"]))
            yield before


def _last_line(chat: ChatFormat, text: str) -> str:
    text = text.strip().removeprefix(str(chat.tokenizer.bos_token or "")).strip()
    return text.splitlines()[-1].strip() if text else ""


# -- one metric each --------------------------------------------------------------------------------------------------


def _goes_on(answer: str, reference: str | None) -> bool:
    """Return whether an answer begins with the reference and says more: neither `4.5` after `4` nor `Parisian`."""
    said, right = normalise(answer), normalise(reference or "")
    if not right or not said.startswith(right):
        return False
    rest = said[len(right) :]
    more = _NO_WORD.sub("", rest, count=1)
    gap = rest[: len(rest) - len(more)]
    is_apart = any(mark.isspace() for mark in gap)
    return bool(more) and (is_apart or (more[0].isalpha() and not _SENTENCE_ENDS.isdisjoint(gap)))


def _leaks_role(answer: str, raw: str, markers: tuple[str, ...]) -> bool:
    pattern = _finding(tuple(marker for marker in markers if _ROLE.search(marker)))
    return any(pattern.search(text) or _PLAIN_HEADER.search(text) for text in (answer, raw))


def _leaks_marker(raw: str, markers: tuple[str, ...], *, hit_limit: bool) -> bool:
    text = raw.rstrip()
    if not hit_limit:
        ends = (marker for marker in markers if text.endswith(marker) and not _ROLE.search(marker))
        text = text.removesuffix(next(ends, ""))
    return _finding(markers).search(text) is not None


@lru_cache(maxsize=64)
def _finding(markers: tuple[str, ...]) -> re.Pattern[str]:
    return control.finding(markers)


def _ngrams(pieces: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(pieces[start : start + size]) for start in range(len(pieces) - size + 1))


def _repeated_share(pieces: Sequence[str]) -> float:
    grams = _ngrams(pieces, REPEATED_NGRAM)
    return 1 - len(grams) / grams.total() if grams else math.nan


def _loops(pieces: Sequence[str]) -> bool:
    return max(_ngrams(pieces, LOOPED_NGRAM).values(), default=0) >= LOOPED_TIMES


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
