"""Whether an answer declines to answer for want of knowledge, by wordings. English alone.

Invariant: a verdict is a function of the answer's first words, so that an answer that ends in doubt is none, and
neither is a guess after a doubt (`I'm not sure, but I think it is Oslo`), an empty answer, or what stands in double
quotes. It is a lower bound: who abstains in other words or another language is not seen. What does not live here:
whether the answer is right, which comes first (answers.py); refusals for other reasons (harness/evals/refusals.py).

Source: what the reference sentences of SelfAware (Yin et al., arXiv:2305.18153, appendix) and R-Tuning (Zhang et al.,
arXiv:2311.09677) say, written anew as patterns that ask for who does not know or what is not known: a bare `unknown`
also opens `Unknown Pleasures`.

Measured on answers to instructions of any sort, people's and models', of which hardly any abstain: the first wordings
flagged 35 of 13 310 answers that they were not chosen on, 14 of them abstentions, and missed 3 of 17 that a broad net
of words finds there (precision .40, recall .82). What they flagged wrongly were dialogues, letters and reasons for
`no`, and they were narrowed for it; narrowed, they flag 1 of 8 262 paragraphs of encyclopaedia and stories and none of
10 953 references of questions that they were not chosen on, and their recall on unseen answers was not measured.
"""

from __future__ import annotations

import re
import unicodedata

NUM_OPENING_CHARACTERS = 140
"""How much of an answer is looked at."""

_ADVERB = (
    r"(?:(?:really|honestly|simply|just|actually|currently|personally|still|yet|entirely|quite|completely|exactly) )*"
)
_WHO = r"(?:^|[^\w'] ?|\b(?:but|that|sorry|unfortunately|and|so|as|because|honestly|well) )(?:i|we)"
_UNABLE = r"(?: cannot| can not| can't| could not| couldn't|(?: am|'m| are|'re) (?:unable|not able) to)"
_UNKNOWN = r"(?:unknown|uncertain|unclear|undetermined|not (?:known|clear|certain|specified|stated|given|mentioned))"
_FINDING = r"(?:known|determined|answered|inferred|established|deduced|verified|ascertained|concluded)"
_TO_FIND = r"(?:know|tell|say|determine|answer|infer|establish|deduce|verify|conclude)"
_KNOWLEDGE = r"(?:information|knowledge|data|details|context|evidence|idea|clue|record|records|answer)"
_TEXT = r"(?:question|text|passage|context|article|information|prompt|paragraph|problem|document)"

WORDINGS: tuple[str, ...] = (
    # I don't know. / I do not know who wrote it. Not: I don't know what to do; I don't know about you.
    rf"{_WHO} {_ADVERB}(?:do not|don't) {_ADVERB}(?:know|remember|recall)"
    r"(?: anything about\b| the (?:\w+ )?(?:answer|name|date|number|solution|place|year|details)\b"
    r"|(?: (?:that|this|it|for sure))?(?:[.,;!?]|$)"
    r"| (?:who|what|when|where|which|how|whether|if) (?!to\b|you\b|i\b))",
    # I have no idea. / I don't have enough information.
    rf"{_WHO} {_ADVERB}(?:have no|(?:do not|don't) have (?:any|enough|sufficient|access to|the))"
    rf"(?: \w+){{0,2}} {_KNOWLEDGE}\b",
    # I'm not sure. / I am unaware of any such person.
    rf"{_WHO}(?: am|'m| are|'re) {_ADVERB}(?:not {_ADVERB}(?:sure|certain)|unsure|uncertain)"
    r"(?=[.,;!?]|$| (?:who|when|where|which|whether)\b| what (?:the|his|her|its|their)\b"
    r"| how (?:many|much|old|long|far)\b| (?:about|of) (?:that|this|it)\b)",
    rf"{_WHO}(?: am|'m| are|'re) {_ADVERB}(?:not {_ADVERB}(?:aware|familiar)|unaware) (?:of|with)\b",
    # I cannot determine that. / I'm unable to answer this question.
    rf"{_WHO}{_UNABLE} {_ADVERB}(?:determine|verify|confirm|recall|remember|infer|know\b|(?:say|tell) (?:for sure|for "
    r"certain|with|who|what|when|where|which|whether|if)|answer (?:this|that|the|your)|find (?:any|the|an?) "
    r"(?:\w+ )?(?:information|answer|record|evidence|data))",
    # It is unknown. / It's impossible to say.
    rf"\b(?:it is|it's|that is|this is) {_ADVERB}(?:{_UNKNOWN}\b(?! (?:for|as|by|to)\b)|"
    rf"(?:not possible|impossible) to {_TO_FIND}\b)",
    # The author of the poem is unknown. / The answer is not given in the text.
    rf"^the (?:[\w'-]+ ){{1,8}}(?:is|are|was|were|remains?) {_ADVERB}{_UNKNOWN}\b(?! (?:for|as|by|to)\b)",
    # This cannot be determined.
    rf"\b(?:cannot|can't|can not|could not) be {_ADVERB}{_FINDING}\b",
    # There is not enough information. / There is no way to know. Not: there is no evidence of it, so it is false.
    rf"\bthere(?: is|'s| was) (?:not enough|insufficient|no)(?: \w+){{0,2}} "
    rf"(?:(?:information|data|context)\b|(?:known|definitive) answer\b|"
    rf"way (?:to {_TO_FIND}|of (?:knowing|telling|determining))\b)",
    # Not enough information. / No information is available.
    rf"^(?:not enough|insufficient|no) (?:\w+ )?{_KNOWLEDGE}\b"
    r"(?=[.,;!?]| (?:is|was|to|about|on|available|given|provided)\b|$)",
    # The passage does not say.
    rf"\b{_TEXT}(?: \w+)? (?:does not|doesn't|did not|didn't) {_ADVERB}(?:mention|say|specify|state|provide|give|tell|"
    r"indicate|answer)\b",
    # Unknown. / No idea! - and nothing else.
    r"^(?:the answer is |it is |it's |this is )?"
    r"(?:unknown|unsure|unclear|uncertain|undetermined|unanswerable|idk|dunno|"
    r"no idea|no clue|not sure|not known|not available|don't know|do not know|cannot (?:say|tell|answer)|"
    r"can't (?:say|tell|answer)|n/a)[.!?]*$",
)
"""Wordings in lower case, each with what it is there for; one of them makes an abstention."""
_ABSTENTION = re.compile("|".join(f"(?:{wording})" for wording in WORDINGS))
_GUESS = re.compile(
    r"^[^.!?]{0,60}[,;.]? ?\b(?:but|however|though|still)\b[^.!?]{0,30}"
    r"\b(?:i (?:think|believe|guess|suspect|assume|would|'d)|it's|probably|perhaps|maybe|likely|my (?:\w+ )?guess|"
    r"(?:it|he|she|they|this|that|the answer) (?:is|was|were|are|might|may|could|must|should|would))\b"
    r"|\b(?:so )?the answer is (?!unknown|unclear|uncertain|not\b|un)"
)
"""What follows a doubt where an answer is given after all."""
_SPEAKER = re.compile(r"(?:^|[\s.!?])[a-z]+(?: [a-z0-9])?:(?=\s)")
_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def is_abstention(text: str) -> bool:
    """Return whether an answer opens by saying that the answer is not known.

    It does where its first 140 characters hold one of `WORDINGS` and no guess follows it in the same breath; not in
    a dialogue, where two speakers are named. Case, curly quotes, markdown and runs of white space do not matter. An
    empty answer is none.
    """
    opening = _opening(text)
    if len(_SPEAKER.findall(opening)) > 1:
        return False
    found = _ABSTENTION.search(opening)
    return found is not None and not _GUESS.search(opening[found.end() :])


def _opening(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text[: 4 * NUM_OPENING_CHARACTERS]).translate(_STRAIGHT)
    own = re.sub(r'"[^"]*(?:"|$)', " ", re.sub(r"[*_#>`]+", "", plain))
    return " ".join(own.lower().split())[:NUM_OPENING_CHARACTERS]
