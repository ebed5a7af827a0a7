"""Our labels against TRL's, row by row, on real files and real tokenizers.

    python -m benchmarks.trl_labels ROWS --tokenizers FOLDER[:TEMPLATE] ... [--num-rows N] [--out FILE.md]

TRL labels each file in its two ways: `messages` with `assistant_only_loss=True`, where it knows the template, and
`prompt` and `completion`, the last answer being the completion. Its labels are those that `SFTTrainer` makes of the
file: nothing of it is written again here. Ours are those of the same rows under the same template. TEMPLATE is the
name of a template that TRL ships, for a tokenizer that has none of its own.

A token that one side alone trains on is put down to where it stands beside what a model is asked with and has to
write, which is found anew here, by rendering and encoding every prompt:

    prompt      a token of the prompt: a model is given it
    after stop  a token after the first that stops an answer: a model is never asked for it
    answer      a token from the end of the prompt to that stop

On the first two a model that does not train them is right, on the last one that does. What does not live here:
training with these labels (tests/train/test_references.py).
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from harness.data import ChatFormat, Conversation, chat_format, describe_file, prepare, read_rows
from harness.data.conversations import IGNORE_INDEX
from harness.errors import DataError
from harness.spec import DataSpec

Way = Literal["messages", "prompt_completion"]
WAYS: tuple[Way, ...] = ("messages", "prompt_completion")
LONGEST = 1_000_000
"""Tokens: nothing is cut on either side."""


@dataclass
class Comparison:
    """One file under one tokenizer, labelled in one way."""

    file: str
    tokenizer: str
    way: Way
    num_rows: int = 0
    num_identical: int = 0
    num_other_tokens: int = 0
    """Rows that are other tokens altogether: only rows of the same tokens are compared further."""
    only_theirs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Cause and token -> rows in which TRL trains it and we do not."""
    only_ours: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The same the other way round."""
    refusal: str = ""

    @property
    def num_unexplained(self) -> int:
        """Return the rows in which ours are not the labels of what a model has to write."""
        theirs = sum(num for (cause, _), num in self.only_theirs.items() if cause == "answer")
        ours = sum(num for (cause, _), num in self.only_ours.items() if cause != "answer")
        return self.num_other_tokens + theirs + ours


def main() -> int:
    """Print the table; 1 if any difference speaks against ours, 2 without files."""
    arguments = _arguments()
    logging.disable(logging.WARNING)
    files = sorted(arguments.rows.glob("*.jsonl"))
    if not files:
        print(f"ROWS is {str(arguments.rows)!r}, but must be a folder of .jsonl files; name one", file=sys.stderr)
        return 2
    shipped = {path.stem for path in shipped_templates().glob("*.jinja")} | {""}
    unknown = [text for text in arguments.tokenizers if text.partition(":")[2] not in shipped]
    if unknown:
        print(f"{unknown[0]!r} names a template that TRL does not ship; name one of its, or none", file=sys.stderr)
        return 2
    found: list[Comparison] = []
    for text in arguments.tokenizers:
        folder, _, template = text.partition(":")
        for path in files:
            for way in WAYS:
                name = Path(folder).name + (f" with {template}" if template else "")
                found.append(compared(load(Path(folder), template), name, path, way, arguments.num_rows))
                print(found[-1], file=sys.stderr, flush=True)
    text = as_markdown(found)
    if arguments.out:
        arguments.out.write_text(text)
    print(text)
    return int(any(one.num_unexplained for one in found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="folder of .jsonl files")
    parser.add_argument("--tokenizers", nargs="+", required=True, help="folders, each with :TEMPLATE to give it one")
    parser.add_argument("--num-rows", type=int, help="of each file; by default all")
    parser.add_argument("--out", type=Path, help="also write the table here")
    return parser.parse_args()


def load(folder: Path, template: str = "") -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder, with a template of those that TRL ships where one is named."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if template:
        tokenizer.chat_template = (shipped_templates() / f"{template}.jinja").read_text()
    return tokenizer


def shipped_templates() -> Path:
    """Return the folder of templates that TRL ships."""
    found = find_spec("trl")
    assert found is not None
    return Path((found.submodule_search_locations or [""])[0]) / "chat_templates"


# -- both sides -------------------------------------------------------------------------------------------------------


def compared(tokenizer: PreTrainedTokenizerBase, name: str, path: Path, way: Way, num_rows: int | None) -> Comparison:
    """Return how TRL's labels of a file differ from ours."""
    result = Comparison(path.stem, name, way)
    source = describe_file(path)
    rows = {row.row_id: row for row in read_rows(source).conversations}
    spec = DataSpec(
        source=source,
        num_examples=num_rows if num_rows and num_rows < len(rows) else None,
        num_validation=0,
        template="tokenizer",
        max_length=LONGEST,
        too_long="raise",
        prompt_loss_weight=0.0,
        train_on_end_of_turn=True,
        trained_turns="all" if way == "messages" else "last",
        packing="off",
    )
    try:
        chat = chat_format(tokenizer, spec)
        examples = prepare(spec, chat, seed=0).train
    except DataError as refusal:
        result.refusal = f"ours: {refusal}"
        return result
    chosen = [rows[example.row_id] for example in examples]
    try:
        theirs = trl_labels(tokenizer, chosen, way)
    except (ValueError, RuntimeError) as refusal:
        result.refusal = f"TRL: {str(refusal).splitlines()[0]}"
        return result
    for row, example, their in zip(chosen, examples, theirs, strict=True):
        ids = example.input_ids.tolist()
        ours = {place for place, weight in enumerate(example.loss_weights) if weight}
        count(result, chat, row, ids, ours, their)
    return result


def count(
    result: Comparison, chat: ChatFormat, row: Conversation, ids: list[int], ours: set[int], theirs: Mapping[str, Any]
) -> None:
    """Add one row to a comparison."""
    result.num_rows += 1
    if theirs["input_ids"] != ids:
        result.num_other_tokens += 1
        return
    # the first token is predicted from nothing, so that whether its label is -100 moves no number
    labelled = {place for place, label in enumerate(theirs["labels"]) if label != IGNORE_INDEX and place}
    result.num_identical += labelled == ours
    if labelled == ours:
        return
    causes = causes_of(chat, row, ids)
    result.only_theirs.update({(causes[place], str(chat.tokenizer.decode(ids[place]))) for place in labelled - ours})
    result.only_ours.update({(causes[place], str(chat.tokenizer.decode(ids[place]))) for place in ours - labelled})


def trl_labels(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Conversation], way: Way, **settings: Any
) -> list[dict[str, Any]]:
    """Return what SFTTrainer makes of conversations: `input_ids` and `labels` of each.

    Args:
        tokenizer: with its template.
        rows: the conversations.
        way: which columns TRL is given.
        settings: of SFTConfig, in place of those that train on answers alone.
    """
    import datasets
    import trl

    # Streamed, since a table of datasets' JSON columns writes small numbers anew: 8.854e-12 comes back as 0.0.
    table = datasets.IterableDataset.from_generator(_fields, gen_kwargs={"rows": rows, "way": way})
    asked: dict[str, Any] = {"assistant_only_loss": way == "messages"} | settings
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), hidden_size=4, intermediate_size=4, num_hidden_layers=1,
                    num_attention_heads=1, num_key_value_heads=1)
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        arguments = trl.SFTConfig(
            output_dir=scratch,
            max_length=None,
            packing=False,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            max_steps=1,  # of a stream that is never trained on
            **asked,
        )
        made = trl.SFTTrainer(model=model, args=arguments, train_dataset=table, processing_class=tokenizer)
        labelled: Any = made.train_dataset
        return [{name: row[name] for name in ("input_ids", "labels")} for row in labelled]


def _fields(rows: Sequence[Conversation], way: Way) -> Iterator[dict[str, Any]]:
    has_tools = any(row.tools for row in rows)
    for row in rows:
        messages = [dict(message) for message in row.messages]
        # TRL's completion is what follows the prompt: here the last answer, and what comes after it
        last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
        halves = {"prompt": messages[:last], "completion": messages[last:]}
        said = {"messages": messages} if way == "messages" else halves
        yield said | ({"tools": row.tools} if has_tools else {})


def causes_of(chat: ChatFormat, row: Conversation, ids: Sequence[int]) -> list[str]:
    """Return for each token whether it is given to a model, asked of it, or follows what it is asked for.

    An answer begins where the tokens of its prompt end, and ends with the first token that stops a model.
    """
    causes = ["prompt"] * len(ids)
    for place, message in enumerate(row.messages):
        if message["role"] != "assistant":
            continue
        first = len(chat.encode(chat.render(row.messages[:place], add_generation_prompt=True, tools=row.tools)))
        stops = (at for at in range(first, len(ids)) if ids[at] in chat.stop_token_ids)
        last = next(stops, len(ids) - 1)
        causes[first : last + 1] = ["answer"] * (last + 1 - first)
        after = len(chat.encode(chat.render(row.messages[: place + 1], tools=row.tools)))
        causes[last + 1 : after] = ["after stop"] * max(0, after - last - 1)
    return causes


# -- text -------------------------------------------------------------------------------------------------------------


def as_markdown(found: Sequence[Comparison]) -> str:
    """Return the table and the refusals."""
    return "\n".join([*_rows(found), "", "Refused:", "", *(list(_refusals(found)) or ["nothing"])]) + "\n"


def _rows(found: Sequence[Comparison]) -> Iterator[str]:
    yield "| file | tokenizer | way | rows | identical | other tokens | TRL alone trains | ours alone trains |"
    yield "|" + " --- |" * 8
    for one in found:
        if one.refusal:
            yield f"| {one.file} | {one.tokenizer} | {one.way} | refused |"
            continue
        sides = map(_in_words, (one.only_theirs, one.only_ours))
        cells = (one.file, one.tokenizer, one.way, one.num_rows, one.num_identical, one.num_other_tokens, *sides)
        yield f"| {' | '.join(map(str, cells))} |"


def _in_words(side: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{cause} {token!r} {num}" for (cause, token), num in sorted(side.items())) or "-"


def _refusals(found: Sequence[Comparison]) -> Iterator[str]:
    why: dict[str, list[str]] = {}
    for one in found:
        if one.refusal:
            why.setdefault(f"{one.tokenizer}, {one.way}, {one.refusal}", []).append(one.file)
    for text, files in why.items():
        yield f"- {', '.join(files)}: {text}"


if __name__ == "__main__":
    raise SystemExit(main())
