"""Questions without a reference: only how the model answers is measured, with the behaviour panel or by itself.

{"prompt": text} or {"turns": [text, ...]}, of which the first is asked: a later one would need an answer before it
"""

from __future__ import annotations

from harness.evals.generated import Results, ending, unknown
from harness.evals.kinds.kind import Document, Item, Kind


def _problem(item: Item) -> str | None:
    given = [name for name in ("prompt", "turns") if name in item]
    if len(given) != 1:
        return f"has {' and '.join(given) or 'neither prompt nor turns'}, but must have one of prompt and turns"
    turns = item.get("turns", [item.get("prompt")])
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        return f"{given[0]} is {item[given[0]]!r:.60}, but must be text"
    return None


def _question(item: Item) -> str:
    return item["prompt"] if "prompt" in item else item["turns"][0]


def metrics(document: Document, results: Results) -> dict[str, float]:
    """Return `end_of_turn` and `empty` of one answer, see `ending`; nan where the model's logits were not finite."""
    (answer,) = results
    return ending(answer) if answer.is_finite else unknown(("end_of_turn", "empty"))


KIND = Kind(fields={}, problem=_problem, question=_question, facts=lambda _: {}, metrics=metrics, ends_at_line=False)
