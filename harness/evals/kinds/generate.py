"""Questions whose whole answer is compared with a reference.

    {"context": text, "answer": text, ("aliases"), ("keep_case")}, or "messages" in place of "context" in chat

Invariant: a reference says something, so an empty answer is never right. What does not live here: the form in which
answers are compared (normalise.py).
"""

from __future__ import annotations

from harness.evals.generated import Results, ending, unknown
from harness.evals.kinds.kind import Document, Item, Kind
from harness.evals.normalise import normalise

NAMES = ("exact_match", "end_of_turn", "empty")


def problem(item: Item) -> str | None:
    """Return what is wrong with a reference: where normalisation leaves nothing of it, only an empty answer matches."""
    aliases = item.get("aliases") or []
    if not item["answer"].strip():
        return "answer is empty"
    if not isinstance(aliases, list):
        return f"aliases is {aliases!r:.60}, but must be a list of answers"
    if not isinstance(item.get("keep_case", False), bool):
        return f"keep_case is {item['keep_case']!r:.60}, but must be true or false"
    for reference in (item["answer"], *aliases):
        if not isinstance(reference, str) or not normalise(reference):
            return f"the answer {reference!r:.60} is nothing but quotes and punctuation, but must be text"
    return None


def question(item: Item) -> str:
    """Return the question, of a conversation its last turn."""
    return item["messages"][-1]["content"] if "messages" in item else item["context"]


def facts(item: Item) -> Document:
    """Return the references of an item."""
    known = {"answer": item["answer"], "references": [item["answer"], *(item.get("aliases") or ())]}
    return known | ({"keep_case": True} if item.get("keep_case") else {})


def metrics(document: Document, results: Results) -> dict[str, float]:
    """Return `exact_match`, `end_of_turn` and `empty` of one generated answer.

    exact_match: 1 if the normalised answer equals the normalised reference or one of its aliases; an empty answer
    matches nothing, nothing is searched for inside a longer one, and case counts where the item says so. end_of_turn: 1
    if generation ended by itself - in chat as a turn ends - and neither at the length limit nor as a document ends.
    empty: 1 if nothing is left after normalisation, a miss counted beside the score. Lower is better for `empty` alone;
    all are nan where the model's logits were not finite.
    """
    (answer,) = results
    if not answer.is_finite:
        return unknown(NAMES)
    keep_case = document.get("keep_case", False)
    said = normalise(answer, keep_case=keep_case)
    right = {normalise(reference, keep_case=keep_case) for reference in document["references"]}
    return {"exact_match": float(bool(said) and said in right)} | ending(answer)


KIND = Kind(
    fields={"context": str, "answer": str},
    problem=problem,
    question=question,
    facts=facts,
    metrics=metrics,
    ends_at_line=True,
    may_converse=True,
)
