"""What real files train on under real tokenizers: one line for each file, tokenizer and template.

    python -m benchmarks.audit_table ROWS --tokenizers FOLDER[:TEMPLATE] ... [--max-length 2048] [--out FILE.md]

ROWS is a folder of .jsonl files. Each is prepared as a trial would prepare all of it - the loss mask on, cut on the
right - under the tokenizer's own chat template and, where that is refused, with the reason, under TEMPLATE. Printed:
rows read, kept and left out by reason; the tokens of every part of the conversations, and how many of them carry loss;
the share of ends of turns in the loss; and what was cut. Every number is counted on the tokens and weights that
training would read.

Below the table: what nobody would expect of a sound set - loss on a part that no assistant wrote, no end of turn in the
loss, a tenth or more of the rows left out for one reason. What does not live here: the counts (harness/data/audit.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.data import chat_format, describe_file, prepare
from harness.data.audit import Audit, audit_of
from harness.data.masks import PARTS
from harness.data.templates import OWN
from harness.errors import DataError
from harness.spec import DataSpec

MAX_LENGTH = 2048
MANY = 0.1
"""Share of the rows left out for one reason from which it is worth a look."""
LEARNED = ("assistant", "end_of_turn", "text")
"""Parts that carry loss where it is on answers alone."""


@dataclass(frozen=True)
class Line:
    """One file under one tokenizer and template: what was counted, or why it is refused."""

    file: str
    tokenizer: str
    template: str
    found: Audit | None
    refusal: str = ""

    @property
    def name(self) -> str:
        """Return what the line is about."""
        return f"{self.file} under {self.tokenizer} ({self.template})"


def main() -> int:
    """Print the table; 1 if anything unexpected is in it, 2 without files."""
    arguments = _arguments()
    files = sorted(arguments.rows.glob("*.jsonl"))
    if not files:
        print(f"ROWS is {str(arguments.rows)!r}, but must be a folder of .jsonl files; name one", file=sys.stderr)
        return 2
    lines: list[Line] = []
    for tokenizer, template in map(_named, arguments.tokenizers):
        for line in lines_of(tokenizer, files, template, arguments.max_length):
            print(f"{line.name}: {line.refusal or 'counted'}", file=sys.stderr, flush=True)
            lines.append(line)
    text = as_markdown(lines)
    if arguments.out:
        arguments.out.write_text(text)
    print(text)
    return int(any(unexpected(line) for line in lines))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="folder of .jsonl files")
    parser.add_argument(
        "--tokenizers", nargs="+", required=True, help="folders, each with :TEMPLATE where its own fails"
    )
    parser.add_argument("--max-length", type=int, default=MAX_LENGTH)
    parser.add_argument("--out", type=Path, help="also write the table here")
    return parser.parse_args()


def _named(text: str) -> tuple[Path, str | None]:
    folder, _, template = text.partition(":")
    return Path(folder), template or None


# -- counting ---------------------------------------------------------------------------------------------------------


def lines_of(folder: Path, files: Sequence[Path], template: str | None, max_length: int) -> Iterator[Line]:
    """Yield a line for each file under a tokenizer's own template, and one more under another where that is refused.

    Args:
        folder: of the tokenizer.
        files: of rows.
        template: a named one, tried where the tokenizer's own is refused; None is none.
        max_length: in tokens; longer rows are cut on the right.
    """
    for path in files:
        line = counted(folder, path, OWN, max_length)
        yield line
        if line.found is None and template is not None:
            yield counted(folder, path, template, max_length)


def counted(folder: Path, path: Path, template: str, max_length: int) -> Line:
    """Return what a file trains on under one template, or why it is refused."""
    spec = DataSpec(
        source=describe_file(path),
        num_examples=None,
        num_validation=0,
        template=template,
        max_length=max_length,
        too_long="truncate_right",
        prompt_loss_weight=0.0,
        train_on_end_of_turn=True,
        packing="off",
    )
    try:
        # A fresh one for each template: `chat_format` writes the template into the tokenizer.
        chat = chat_format(load(folder), spec)
        rows = prepare(spec, chat, seed=0)
    except DataError as refusal:
        return Line(path.stem, folder.name, template, None, str(refusal))
    return Line(path.stem, folder.name, template, audit_of(rows, chat, 1, {}))


def load(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def unexpected(line: Line) -> list[str]:
    """Return one sentence for each count that a sound set does not have."""
    if line.found is None:
        return []
    found = [
        f"{count} tokens of the part {part!r} carry loss"
        for part, count in line.found.loss_tokens.items()
        if count and part not in LEARNED
    ]
    if not line.found.loss_tokens.get("end_of_turn"):
        found.append("no end of turn carries loss")
    for reason, count in line.found.num_rows_dropped.items():
        if count >= MANY * line.found.num_rows_read:
            found.append(f"{count} of {line.found.num_rows_read} rows are left out as {reason}")
    return [f"{line.name}: {sentence}" for sentence in found]


# -- text -------------------------------------------------------------------------------------------------------------

SHOWN = tuple(part for part in PARTS if part != "text")


def as_markdown(lines: Sequence[Line]) -> str:
    """Return the table, the refusals and what is unexpected."""
    head = ["file", "tokenizer", "template", "read", "kept", "left out", *SHOWN, "ends in loss", "cut", "ends cut"]
    table = [_row(head), _row(["---"] * len(head)), *(_row(_cells(line)) for line in lines)]
    refused: dict[str, list[str]] = {}
    for line in lines:
        if line.found is None:
            refused.setdefault(f"{line.tokenizer}, {line.template}: {line.refusal}", []).append(line.file)
    parts = [
        "Tokens of every part, and after the stroke those that carry loss. `ends in loss` is the share of the loss on "
        "ends of turns, `cut` the share of the rows that were cut, `ends cut` the share of ends of turns cut away.",
        "\n".join(table),
        "Refused:\n\n" + ("\n".join(f"- {', '.join(files)}: {why}" for why, files in refused.items()) or "nothing"),
        "Unexpected:\n\n" + ("\n".join(f"- {text}" for line in lines for text in unexpected(line)) or "nothing"),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(line: Line) -> list[str]:
    found = line.found
    if found is None:
        return [line.file, line.tokenizer, line.template, "refused"]
    dropped = ", ".join(f"{reason} {count}" for reason, count in found.num_rows_dropped.items())
    counts = [f"{found.tokens.get(part, 0)} / {found.loss_tokens.get(part, 0)}" for part in SHOWN]
    shares = map(_percent, (found.end_of_turn_share, found.truncated_share, found.ends_lost_share))
    rows = [str(found.num_rows_read), str(found.num_examples), dropped or "-"]
    return [line.file, line.tokenizer, line.template, *rows, *counts, *shares]


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
