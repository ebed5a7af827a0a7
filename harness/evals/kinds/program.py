"""Functions to write, judged by running them against tests, as HumanEval has them.

    {"prompt": text, "entry_point": text, "test": text}

`prompt` is Python up to where the answer begins, `test` defines `check(candidate)`. Of an answer with fences of code
the first block counts that defines the entry point, else - unless the answer begins indented, as what goes on from the
prompt does - the first. What defines the entry point stands below the prompt, whose imports it may need; anything else
goes on from the prompt and ends before the first line that begins something new.

Invariant: nothing runs unless container.py may run it, and an answer that was not tried has no score. What does not
live here: the container and its limits (harness/evals/container.py).
"""

from __future__ import annotations

import ast
import keyword
import re
import textwrap
import warnings

from harness.evals import container
from harness.evals.generated import Results, ending, unknown
from harness.evals.kinds.kind import Document, Item, Kind

NAMES = ("passed", "end_of_turn", "empty")
_FENCE = re.compile(r"^[ \t]*```[^`\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
_NEXT = re.compile(r"\n(?=(?:(?:def|class|if|print|assert|import|from)\b|[#@]|```))")
"""Where text that nothing closes begins something new, as the stop sequences of HumanEval say it."""
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_NO_BODY = "\n    pass\n\n\n"


def _problem(item: Item) -> str | None:
    name = item["entry_point"]
    if not name.isidentifier() or keyword.iskeyword(name):
        return f"entry_point is {name!r:.60}, but must be the name of a function"
    if name == "check" or not _defines(item["test"], "check"):
        return "test must be Python that defines check(candidate)"
    if _defines(item["test"], name):
        return f"test defines {name!r:.60}, but must leave it to the answer"
    return None if item["prompt"].strip() else "prompt is empty"


def metrics(document: Document, results: Results) -> dict[str, float]:
    """Return whether one written function passes its tests, and how the answer ended.

    passed: 1 if the program of prompt, answer and tests runs to its end in the container, 0 if it fails, leaves early
    or exceeds a limit; its mean over items is pass@1 of greedy answers. More is better; all are nan where the model's
    logits were not finite.

    Raises:
        DataError: programs cannot run here.

    Source: Chen et al. (HumanEval), arXiv:2107.03374, section 2.1.
    """
    (answer,) = results
    if not answer.is_finite:
        return unknown(NAMES)
    return {"passed": float(container.passes(program(document, str(answer))))} | ending(answer)


def program(document: Document, answer: str) -> str:
    """Return the Python that decides about an answer: what it defines, then the tests."""
    begun, name = document["begun"], document["entry_point"]
    written = _written(answer.replace("\r\n", "\n"), name)
    if not _defines(written, name):
        body = begun + _NEXT.split(written, maxsplit=1)[0]
    else:
        stub = next((text for text in (begun, begun + _NO_BODY) if _functions(text) is not None), "")
        body = f"{stub}\n{written}"
    whole = f"{body}\n\n{document['test']}\n\ncheck({name})\n"
    return "".join(line.rstrip("\n") + "\n" for line in _FUTURE.findall(whole)) + _FUTURE.sub("", whole)


def _written(answer: str, name: str) -> str:
    blocks = [textwrap.dedent(block) for block in _FENCE.findall(answer)]
    if (whole := next((block for block in blocks if _defines(block, name)), None)) is not None:
        return whole
    goes_on = answer.lstrip("\n")[:1] in (" ", "\t")
    return answer if goes_on or not blocks else _FENCE.findall(answer)[0]


def _defines(source: str, name: str) -> bool:
    return name in (_functions(source) or ())


def _functions(source: str) -> set[str] | None:
    """Return the names of what source defines at its top; None where it is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    return {node.name for node in module.body if isinstance(node, _DEFINES)}


KIND = Kind(
    fields={"prompt": str, "entry_point": str, "test": str},
    problem=_problem,
    question=lambda item: item["prompt"],
    facts=lambda item: {"begun": item["prompt"], "entry_point": item["entry_point"], "test": item["test"]},
    metrics=metrics,
    ends_at_line=False,
)
