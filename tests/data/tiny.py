"""Small tokenizers and specs: what the tests of the data path are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from harness.data import Audit, ChatFormat, PreparedData, audit_of, chat_format, describe_file, prepare
from harness.data.conversations import conversation
from harness.data.masks import Located, Rendered, locate, render
from harness.spec import DataSpec, FileData

REAL = Path(__file__).parents[3] / "shared" / "data"
TEXT = (
    "What is the capital of France? The capital of France is Paris. What is 2+2? The answer is 4. Say hi. Hello! "
    "You are a helpful assistant. ### Instruction: ### Response: [INST] [/INST] Below is an instruction."
)
CHATML_MARKERS = ("<|im_start|>", "<|im_end|>")
TURNS = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "The answer is 4."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
]
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


REAL_TOKENIZERS = (
    "tokenizers/qwen2.5",
    "tokenizers/mistral",
    "models/minimind2-small",
    "models/stories15M",
    "models/stories260K",
)
"""Folders of `REAL`."""


@cache
def _core(markers: tuple[str, ...]) -> str:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<bos>", "<eos>", *markers],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([TEXT] * 3, trainer)
    return core.to_str()


def tokenizer(markers: tuple[str, ...] = CHATML_MARKERS, *, adds_bos: bool = False, **special: Any) -> Any:
    """Return a byte-level BPE tokenizer with markers, one that puts BOS before raw text where asked."""
    core = Tokenizer.from_str(_core(markers))
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
        )
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<eos>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=core, additional_special_tokens=list(markers), **named)


def spec(**changes: Any) -> DataSpec:
    """Return a data spec of all rows in ChatML with the loss mask on, with changes."""
    plain: dict[str, Any] = {
        "source": FileData(sha256="0" * 64, format="messages", path="nowhere"),
        "num_examples": None,
        "num_validation": 0,
        "template": "chatml",
        "max_length": 512,
        "too_long": "drop",
        "prompt_loss_weight": 0.0,
        "train_on_end_of_turn": True,
        "packing": "off",
    }
    return DataSpec(**(plain | changes))


def chat(template: str = "chatml", tok: Any = None, **changes: Any) -> ChatFormat:
    """Return the chat format of a template on a tokenizer."""
    return chat_format(tok if tok is not None else tokenizer(), spec(template=template, **changes))


def rendered(form: ChatFormat, messages: list[dict[str, Any]]) -> Rendered:
    """Return messages as text with the places of the assistant's turns."""
    return render(form, conversation(messages, row_id="row", task=""))


def located(form: ChatFormat, messages: list[dict[str, Any]]) -> Located:
    """Return messages as tokens with the places of the assistant's turns."""
    return locate(form, [rendered(form, messages)])[0]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(num: int) -> list[dict[str, Any]]:
    """Return rows whose answers grow with their number."""
    return [
        {
            "id": f"r{i}",
            "messages": [
                {"role": "user", "content": f"What is {i}?"},
                {"role": "assistant", "content": f"The answer is {i}." + " Paris." * (i % 7)},
            ],
        }
        for i in range(num)
    ]


def audited(rows: PreparedData, batch_size: int, form: ChatFormat | None = None) -> Audit:
    """Return what rows train on."""
    return audit_of(rows, chat() if form is None else form, batch_size, {})


def prepared(path: Path, *, seed: int = 0, tok: Any = None, **changes: Any) -> PreparedData:
    """Return what a file of rows becomes."""
    asked = spec(source=describe_file(path), **changes)
    return prepare(asked, chat_format(tok if tok is not None else tokenizer(), asked), seed=seed)
