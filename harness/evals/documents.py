"""What the model is shown: items as lm-eval documents, raw or inside the chat template.

Invariant: a document holds final text; nothing downstream adds a space or a marker. What does not live here: tokens.

Raw (`chat=False`):
    multiple_choice  P(" " + choice | query); an empty query scores the whole choice as a sentence, without the space
    schema, greedy   P(continuation | context), a space between them unless one side brings white space
    generate         the context as it stands; the answer ends at its first line break, as of number; those of other
                     kinds (kinds/) go on to a stop token or the length limit
In chat (`chat=True`) the query or context is the user's turn, rendered with the generation prompt, and a choice or
continuation follows it exactly as the template writes an assistant's turn, without what closes the turn.
An item's own `delimiter` replaces the space. An item with `messages` shows that conversation in place of one turn.
A task with a `typo_rate` misspells its questions here (typos.py), one with a `layout` lays them out (layouts.py); what
decontaminates, leaks or audits sees neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.data import bounds
from harness.errors import DataError
from harness.evals.items import Item
from harness.evals.kinds import KINDS
from harness.evals.layouts import as_asked
from harness.spec import EvalTask

if TYPE_CHECKING:
    from harness.data import ChatFormat

Document = dict[str, Any]


@bounds.watching()
def documents(items: Sequence[Item], task: EvalTask, chat: ChatFormat, seed: int) -> list[Document]:
    """Return the lm-eval documents of a slice, one per item, in order.

    Args:
        items: of the slice.
        task: how they are asked.
        chat: tokenizer and template.
        seed: `evals.items_seed`, for the typing errors of a task with a `typo_rate`.

    Raises:
        DataError: a perplexity task is to be asked in chat.
    """
    if task.kind == "perplexity":
        if task.chat:
            raise DataError(f"evals.tasks {task.key}: chat is True, but must be False for kind 'perplexity'")
        return [{"id": item["id"], "text": item["text"]} for item in items]
    items = [as_asked(item, task, seed) for item in items]
    ask, answer = _in_chat(chat) if task.chat else (_as_is, _after)
    if task.kind in KINDS:
        return [_answered(item, task.kind, ask, chat) for item in items]
    return [_MAKERS[task.kind](item, ask, answer) for item in items]


def prompt(chat: ChatFormat, question: str) -> str:
    """Return a question as the user's turn, up to where the assistant's answer begins."""
    return chat.render([{"role": "user", "content": question}], add_generation_prompt=True)


Ask = Callable[[str], str]
Answer = Callable[[str, str, str | None], str]


def _multiple_choice(item: Item, ask: Ask, answer: Answer) -> Document:
    query, delimiter = item["query"], item.get("delimiter")
    continuations = [answer(query, choice, " " if delimiter is None else delimiter) for choice in item["choices"]]
    return {
        "id": item["id"],
        "context": ask(query),
        "continuations": continuations,
        "choices": item["choices"],
        "gold": item["gold"],
    }


def _schema(item: Item, ask: Ask, answer: Answer) -> Document:
    continuation = answer(item["contexts"][0], item["continuation"], item.get("delimiter"))
    contexts = [ask(context) for context in item["contexts"]]
    return {
        "id": item["id"],
        "contexts": contexts,
        "continuation": continuation,
        "choices": item["contexts"],
        "gold": item["gold"],
    }


def _greedy(item: Item, ask: Ask, answer: Answer) -> Document:
    continuation = answer(item["context"], item["continuation"], item.get("delimiter"))
    return {"id": item["id"], "context": ask(item["context"]), "continuation": continuation}


def _answered(item: Item, kind: str, ask: Ask, chat: ChatFormat) -> Document:
    shown = item.get("messages")
    context = ask(KINDS[kind].question(item)) if shown is None else chat.render(shown, add_generation_prompt=True)
    return {"id": item["id"], "context": context} | KINDS[kind].facts(item)


_MAKERS: dict[str, Callable[[Item, Ask, Answer], Document]] = {
    "multiple_choice": _multiple_choice,
    "schema": _schema,
    "greedy": _greedy,
}


def _as_is(text: str) -> str:
    return text


def _after(context: str, continuation: str, delimiter: str | None) -> str:
    if not context:
        return continuation
    if delimiter is None:
        delimiter = "" if context[-1].isspace() else " "
    return continuation if continuation[0].isspace() else delimiter + continuation


def _in_chat(chat: ChatFormat) -> tuple[Ask, Answer]:
    lead: list[str] = []

    def answer(context: str, continuation: str, delimiter: str | None) -> str:
        said = chat.guarded(continuation.strip())
        if not lead:
            lead.append(_answer_lead(chat, context, said))
        return lead[0] + said

    return lambda question: prompt(chat, question), answer


def _answer_lead(chat: ChatFormat, question: str, answer: str) -> str:
    """Return what the template writes between its generation prompt and the answer's first character, mostly ''."""
    chat = chat.unedited
    opened = prompt(chat, question)
    whole = chat.render([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    if not whole.startswith(opened):
        return ""
    rest = whole[len(opened) :]
    return rest[: rest.index(answer)] if answer in rest else ""
