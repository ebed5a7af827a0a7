"""IFEval's verifiable instructions: did an answer do what it was told, decided by rules alone. Free of torch.

Invariant: a verdict is a function of the answer and the instruction's own arguments; a kind whose rule needs data that
cannot be had offline is named in `UNAVAILABLE` and refused, never approximated. What does not live here: prompts,
generation, and the mean over instructions or prompts.

Source: Zhou et al., Instruction-Following Evaluation for Large Language Models, arXiv:2311.07911, section 2, table 1;
the behaviour at edges is that of lm-eval 0.4.13 (`lm_eval/tasks/ifeval`), so that numbers compare with published ones.
Where this module decides otherwise, on no row of the published prompts:

    - Keywords, forbidden words, section names and postscript markers are text. There they are regular expressions, so
      that `C++` raises and `P.S` is found in `paste`.
    - An argument that is missing is refused. There it is drawn at random, and an argument of 0 counts as missing.
    - A paragraph number beyond the number of paragraphs asked for cannot be met. There another number is drawn.
    - JSON too deeply nested to read is not followed. There it raises.
    - The language detector draws with a fixed seed, so that an answer has one verdict. There the language of a short
      text may differ from call to call.
    - Words are counted by Python's `re`, as when the numbers were published. nltk from 3.10 on uses another engine, for
      which a superscript parts words and the vowel signs of Indian scripts do not.

And where it decides otherwise on rows that are published: `letter_frequency` of something that is no letter (`!`, `#`)
counts that character. There a letter is drawn at random in its place, so that such a row has no verdict of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from harness.errors import DataError, unknown_name

Arguments = Mapping[str, Any]
Rule = Callable[[str, Arguments], bool]

_NO_SPLITTER = "needs the sentence splitter punkt, whose data are no package and have to be downloaded"
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_FENCES = ("```json", "```Json", "```JSON", "```")
_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
_DETECTOR_SEED = 0
"""Of langdetect, which otherwise gives short texts another language from call to call."""


UNAVAILABLE: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("length_constraints:number_sentences", "change_case:capital_word_frequency"), _NO_SPLITTER)
)
"""Instruction kind -> why it cannot be checked here; no other splitter stands in, it would move numbers."""


def followed(instruction_id: str, prompt: str, answer: str, kwargs: Arguments) -> bool:
    """Return whether an answer follows one instruction; strict, that is, the answer as it stands.

    An answer of white space alone follows nothing.

    Args:
        instruction_id: `group:kind`, as in the published prompts.
        prompt: what was asked; `combination:repeat_prompt` repeats it where `kwargs` names no other text.
        answer: what the model wrote.
        kwargs: the instruction's arguments; None counts as not given.

    Raises:
        DataError: the kind is unknown or in `UNAVAILABLE`, or an argument is missing or unusable.
    """
    if instruction_id in UNAVAILABLE:
        raise DataError(
            f"instruction_id_list holds {instruction_id!r}, but must hold kinds that can be checked: this one "
            f"{UNAVAILABLE[instruction_id]}; leave it out"
        )
    if instruction_id not in RULES:
        raise DataError(unknown_name("instruction_id_list", instruction_id, RULES))
    given = {"prompt_to_repeat": prompt} | {name: value for name, value in kwargs.items() if value is not None}
    try:
        return bool(answer.strip()) and RULES[instruction_id](answer, given)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"kwargs of {instruction_id} is {dict(kwargs)!r:.80}, but must hold the arguments of this kind ({error}); "
            "give them"
        ) from error


def loose_variants(answer: str) -> tuple[str, ...]:
    """Return the eight readings of an answer of which one has to follow an instruction for the loose score.

    The answer itself comes first; then without asterisks; then without its first line, its last line and both; then
    these three without asterisks.

    Source: arXiv:2311.07911, section 2.2.
    """
    lines = answer.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return (answer, answer.replace("*", ""), *cut, *(part.replace("*", "") for part in cut))


# -- keywords ---------------------------------------------------------------------------------------------------------


def _holds(number: int, arguments: Arguments, threshold: str, relation: str = "relation") -> bool:
    """Return whether a count is as asked: `less than` the threshold or `at least` as large."""
    limit, comparison = int(arguments[threshold]), arguments[relation]
    if comparison not in ("less than", "at least"):
        raise TypeError(f"{relation} {comparison!r} is neither 'less than' nor 'at least'")
    return number < limit if comparison == "less than" else number >= limit


def _occurrences(text: str, answer: str) -> int:
    return len(re.findall(re.escape(text), answer, flags=re.IGNORECASE))


def _keywords_exist(answer: str, arguments: Arguments) -> bool:
    return all(_occurrences(keyword, answer) for keyword in _texts(arguments["keywords"]))


def _keyword_is_as_frequent(answer: str, arguments: Arguments) -> bool:
    return _holds(_occurrences(_text(arguments["keyword"]).strip(), answer), arguments, "frequency")


def _words_are_absent(answer: str, arguments: Arguments) -> bool:
    words = _texts(arguments["forbidden_words"])
    return not any(re.search(rf"\b{re.escape(word)}\b", answer, flags=re.IGNORECASE) for word in words)


def _letter_is_as_frequent(answer: str, arguments: Arguments) -> bool:
    letter = _text(arguments["letter"]).strip().lower()
    if len(letter) != 1:
        raise TypeError(f"letter {letter!r:.40} is not one character")
    return _holds(answer.lower().count(letter), arguments, "let_frequency", "let_relation")


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not value:
        raise TypeError(f"{value!r:.40} is no list of words")
    return [_text(text) for text in value]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{value!r:.40} is no text")
    return value


# -- length -----------------------------------------------------------------------------------------------------------


def _words_are_as_many(answer: str, arguments: Arguments) -> bool:
    return _holds(len(re.findall(r"\w+", answer)), arguments, "num_words")


def _has_paragraphs(answer: str, arguments: Arguments) -> bool:
    """Return whether `***` parts the answer into exactly so many paragraphs; only the outer ones may be empty."""
    filled = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", answer)]
    return all(filled[1:-1]) and sum(filled) == int(arguments["num_paragraphs"])


def _paragraph_starts_with(answer: str, arguments: Arguments) -> bool:
    """Return whether there are exactly so many paragraphs, parted by blank lines, and the n-th begins with a word.

    Empty ones are not counted among so many but are among the first n, as published. The word ends at the first of
    `.,?!'"`, and quotes before it are passed over.
    """
    parts = answer.split("\n\n")
    number, count = int(arguments["nth_paragraph"]), sum(bool(part.strip()) for part in parts)
    first_word = _text(arguments["first_word"]).lower()
    if number < 1 or number > count or count != int(arguments["num_paragraphs"]) or not parts[number - 1].strip():
        return False
    word = parts[number - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word


# -- content and form -------------------------------------------------------------------------------------------------


def _has_placeholders(answer: str, arguments: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", answer)) >= int(arguments["num_placeholders"])


def _has_postscript(answer: str, arguments: Arguments) -> bool:
    marker = _text(arguments["postscript_marker"]).strip()
    return re.search(_POSTSCRIPTS.get(marker, re.escape(marker.lower())), answer.lower()) is not None


def _has_bullets(answer: str, arguments: Arguments) -> bool:
    """Return whether exactly so many lines begin with `*`, not followed by another, or with `-`."""
    # White space before the mark may span lines: a blank line and a bullet are one bullet.
    stars = re.findall(r"^\s*\*[^\*].*$", answer, flags=re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", answer, flags=re.MULTILINE)
    return len(stars) + len(dashes) == int(arguments["num_bullets"])


def _is_an_option(answer: str, arguments: Arguments) -> bool:
    return any(option in answer for option in _OPTIONS)


def _has_highlights(answer: str, arguments: Arguments) -> bool:
    """Return whether at least so many stretches stand in `*` or `**`; those in `**` may count in both forms."""
    marked = [text.strip("*") for text in re.findall(r"\*[^\n\*]*\*", answer)]
    marked += [text[2:-2] for text in re.findall(r"\*\*[^\n\*]*\*\*", answer)]
    return sum(bool(text.strip()) for text in marked) >= int(arguments["num_highlights"])


def _has_sections(answer: str, arguments: Arguments) -> bool:
    name = re.escape(_text(arguments["section_spliter"]).strip())
    return len(re.findall(rf"\s?{name}\s?\d+\s?", answer)) >= int(arguments["num_sections"])


def _is_json(answer: str, arguments: Arguments) -> bool:
    text = answer.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _has_title(answer: str, arguments: Arguments) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", answer))


# -- combinations, ends, punctuation ----------------------------------------------------------------------------------


def _has_two_answers(answer: str, arguments: Arguments) -> bool:
    """Return whether `******` parts the answer into two that differ; only the outer parts may be empty."""
    parts = [part.strip() for part in answer.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def _repeats_the_prompt(answer: str, arguments: Arguments) -> bool:
    return answer.strip().lower().startswith(_text(arguments["prompt_to_repeat"]).strip().lower())


def _ends_with(answer: str, arguments: Arguments) -> bool:
    return answer.strip().strip('"').lower().endswith(_text(arguments["end_phrase"]).strip().lower())


def _is_quoted(answer: str, arguments: Arguments) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _has_no_comma(answer: str, arguments: Arguments) -> bool:
    return "," not in answer


# -- language ---------------------------------------------------------------------------------------------------------


def _is_language(answer: str, language: str) -> bool:
    """Return whether langdetect reads a text as a language; one that it cannot read follows, as published."""
    import langdetect  # takes half a second, and most prompts ask for no language

    langdetect.DetectorFactory.seed = _DETECTOR_SEED
    try:
        return langdetect.detect(answer) == language
    except langdetect.LangDetectException:
        return True


def _is_in_language(answer: str, arguments: Arguments) -> bool:
    return _is_language(answer, _text(arguments["language"]))


def _is_english_in_capitals(answer: str, arguments: Arguments) -> bool:
    return answer.isupper() and _is_language(answer, "en")


def _is_english_in_lower_case(answer: str, arguments: Arguments) -> bool:
    return answer.islower() and _is_language(answer, "en")


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "keywords:existence": _keywords_exist,
        "keywords:frequency": _keyword_is_as_frequent,
        "keywords:forbidden_words": _words_are_absent,
        "keywords:letter_frequency": _letter_is_as_frequent,
        "language:response_language": _is_in_language,
        "length_constraints:number_words": _words_are_as_many,
        "length_constraints:number_paragraphs": _has_paragraphs,
        "length_constraints:nth_paragraph_first_word": _paragraph_starts_with,
        "detectable_content:number_placeholders": _has_placeholders,
        "detectable_content:postscript": _has_postscript,
        "detectable_format:number_bullet_lists": _has_bullets,
        "detectable_format:constrained_response": _is_an_option,
        "detectable_format:number_highlighted_sections": _has_highlights,
        "detectable_format:multiple_sections": _has_sections,
        "detectable_format:json_format": _is_json,
        "detectable_format:title": _has_title,
        "combination:two_responses": _has_two_answers,
        "combination:repeat_prompt": _repeats_the_prompt,
        "startend:end_checker": _ends_with,
        "startend:quotation": _is_quoted,
        "change_case:english_capital": _is_english_in_capitals,
        "change_case:english_lowercase": _is_english_in_lower_case,
        "punctuation:no_comma": _has_no_comma,
    }
)
"""Instruction kind -> its rule."""
