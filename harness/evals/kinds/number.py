"""Questions with one short result, which is also read out of a longer answer.

    {"context": text, "answer": text, ("aliases"), ("keep_case")}, or "messages" in place of "context" in chat

What is read out of an answer, by the form of the reference:

    a number        the last number: sign, `$` and thousands' commas allowed, `1,234.50` is `1234.5`
    a letter        `(B)`: the last letter in brackets; without any, the last letter after answer, option or choice;
                    without that, an answer that is one letter
    a choice        yes or no, true or false, or what the question lists as `- word` below `Options:`: the last of them
    other text      the last line that is not empty, without what leads up to a colon or to `answer is`

Invariant: what matches strictly matches leniently. What does not live here: the form in which answers are compared
(normalise.py).
"""

from __future__ import annotations

import re

from harness.evals.generated import Results, ending, unknown
from harness.evals.kinds import generate
from harness.evals.kinds.kind import Document, Kind
from harness.evals.normalise import normalise

NAMES = ("lenient_match", "exact_match", "format_failure", "end_of_turn", "empty")
_PAIRS = (("yes", "no"), ("true", "false"))
_NUMBER = re.compile(r"(?:(?<![\w)\]])[-\u2212])?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:(?<=\d)(?:\.\d+)?|\.\d+)")
_LETTER = re.compile(r"\(([A-Z])\)")
_NAMED_LETTER = re.compile(r"(?i:answer|option|choice)(?:\s+(?i:is))?\s*:?\s*([A-Z])\b(?!['\u2019])")
_LISTED = re.compile(r"^[ \t]*-[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_LEAD = re.compile(r"(?i:^.*\banswer is\b\s*:?|^.*:(?=\s))")


def metrics(document: Document, results: Results) -> dict[str, float]:
    """Return whether one answer is right, read leniently and strictly, and how it ended.

    exact_match: as of `generate`: 1 if the whole normalised answer is the normalised reference or an alias.
    lenient_match: 1 if it is, or if what is read out of it (see the module) is. More is better for both.
    format_failure: lenient_match - exact_match: 1 if the answer is right in another form than asked; less is better.
    All are nan where the model's logits were not finite.
    """
    (answer,) = results
    if not answer.is_finite:
        return unknown(NAMES)
    whole = generate.metrics(document, results)
    strict, keep_case = whole["exact_match"], document.get("keep_case", False)
    lenient = float(
        bool(strict)
        or any(
            _is_read_out(str(answer), reference, document["options"], keep_case=keep_case)
            for reference in document["references"]
        )
    )
    return {"lenient_match": lenient, "exact_match": strict, "format_failure": lenient - strict} | ending(answer)


def _is_read_out(answer: str, reference: str, options: list[str], *, keep_case: bool) -> bool:
    target = normalise(reference, keep_case=keep_case)
    if (number := _only_number(reference)) is not None:
        return _last_number(answer) == number
    if letter := _LETTER.fullmatch(reference.strip()):
        return _last_letter(answer) == letter[1]
    choices = next((pair for pair in (*_PAIRS, tuple(map(normalise, options))) if target.casefold() in pair), None)
    if choices is not None:
        return _last_choice(answer, choices) == target.casefold()
    return normalise(_conclusion(answer), keep_case=keep_case) == target


def _last_number(text: str) -> str | None:
    found = [match[0] for match in _NUMBER.finditer(text) if match[0].strip("-\u2212$")]
    return _plain(found[-1]) if found else None


def _only_number(reference: str) -> str | None:
    text = reference.strip().rstrip(".%")
    match = _NUMBER.fullmatch(text)
    return _plain(text) if match and text.strip("-\u2212$") else None


def _plain(number: str) -> str:
    """Return the one way to write a number: as text, since an answer may hold more digits than arithmetic takes."""
    whole, _, part = number.replace(",", "").replace("$", "").replace("\u2212", "-").partition(".")
    digits, part = whole.lstrip("-").lstrip("0") or "0", part.rstrip("0")
    is_negative = whole.startswith("-") and (digits != "0" or bool(part))
    return ("-" if is_negative else "") + digits + (f".{part}" if part else "")


def _last_letter(answer: str) -> str | None:
    for pattern in (_LETTER, _NAMED_LETTER):
        if found := pattern.findall(answer):
            return found[-1]
    alone = normalise(answer, keep_case=True).strip("()")
    return alone if re.fullmatch("[A-Z]", alone) else None


def _last_choice(answer: str, choices: tuple[str, ...]) -> str | None:
    pattern = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    found = re.findall(rf"(?<!\w)(?:{pattern})(?!\w)", " ".join(answer.casefold().split()))
    return found[-1] if found else None


def _conclusion(answer: str) -> str:
    lines = [line for line in answer.splitlines() if line.strip()]
    return _LEAD.sub("", lines[-1]) if lines else ""


def _listed_options(question: str) -> list[str]:
    _, has_options, rest = question.rpartition("Options:")
    return _LISTED.findall(rest) if has_options else []


KIND = Kind(
    fields=generate.KIND.fields,
    problem=generate.problem,
    question=generate.question,
    facts=lambda item: generate.facts(item) | {"options": _listed_options(generate.question(item))},
    metrics=metrics,
    ends_at_line=True,
    may_converse=True,
)
