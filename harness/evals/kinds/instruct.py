"""Prompts with instructions that a program checks, as IFEval has them.

    {"prompt": text, "instruction_id_list": [text, ...], "kwargs": [{...}, ...]}

Invariant: an item is asked only if every one of its instructions can be checked here, and what is left out is counted
by name. What does not live here: the checks (harness/evals/instructions.py).
"""

from __future__ import annotations

from harness.evals import instructions
from harness.evals.generated import Results, ending, unknown
from harness.evals.kinds.kind import Document, Item, Kind

NAMES = ("prompt_strict", "prompt_loose", "followed_strict", "followed_loose", "end_of_turn", "empty")


def _problem(item: Item) -> str | None:
    ids, arguments = item["instruction_id_list"], item["kwargs"]
    if not item["prompt"].strip():
        return "prompt is empty"
    if not ids or not all(isinstance(name, str) and name for name in ids):
        return f"instruction_id_list is {ids!r:.60}, but must be a list of names"
    if len(arguments) != len(ids) or not all(isinstance(given, dict) for given in arguments):
        return f"kwargs is {arguments!r:.60}, but must hold one object for each of {len(ids)} instructions"
    return None


def _left_out(item: Item) -> str | None:
    names = [name for name in dict.fromkeys(item["instruction_id_list"]) if name in instructions.UNAVAILABLE]
    return "; ".join(f"{name}: {instructions.UNAVAILABLE[name]}" for name in names) or None


def metrics(document: Document, results: Results) -> dict[str, float]:
    """Return which instructions of one prompt were followed, and how the answer ended.

    prompt_strict: 1 if the answer follows every instruction. followed_strict: share of the prompt's instructions that
    it follows (IFEval's instruction level weighs instructions equally, so prompts by their number of them). loose: the
    same where any variant of the answer does - without its first or last line, without asterisks. An empty answer
    follows nothing. More is better for these; all are nan where the model's logits were not finite.

    Source: Zhou et al. (IFEval), arXiv:2311.07911, section 3.
    """
    (answer,) = results
    if not answer.is_finite:
        return unknown(NAMES)
    asked, told = document["asked"], list(zip(document["instruction_id_list"], document["kwargs"], strict=True))
    said, *variants = instructions.loose_variants(str(answer))
    strict = [instructions.followed(name, asked, said, given) for name, given in told]
    loose = [
        is_followed or any(instructions.followed(name, asked, text, given) for text in variants)
        for is_followed, (name, given) in zip(strict, told, strict=True)
    ]
    return {
        "prompt_strict": float(all(strict)),
        "prompt_loose": float(all(loose)),
        "followed_strict": sum(strict) / len(strict),
        "followed_loose": sum(loose) / len(loose),
    } | ending(answer)


def _facts(item: Item) -> Document:
    # lm-eval must not take None apart, which the hub's rows hold for every argument that an instruction has not.
    given = [{name: value for name, value in kwargs.items() if value is not None} for kwargs in item["kwargs"]]
    return {"asked": item["prompt"], "instruction_id_list": item["instruction_id_list"], "kwargs": given}


KIND = Kind(
    fields={"prompt": str, "instruction_id_list": list, "kwargs": list},
    problem=_problem,
    question=lambda item: item["prompt"],
    facts=_facts,
    metrics=metrics,
    ends_at_line=False,
    left_out=_left_out,
)
