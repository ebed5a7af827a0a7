"""From a `PocketBase` to a plain Hugging Face folder: tokenizer, pretraining in plain torch, saved Llama.

Invariant: the same spec gives the same bytes on one machine; the thread count is part of the spec, and torch's global
generators and thread count are as before on return. One pass over the corpus at least: a token budget that does not
hold the planned exposures is refused before the first step. What does not live here: the text (corpus.py).

Legend: B sequences per step, T tokens per sequence, V vocabulary.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.errors import HarnessError, SpecError
from harness.pocket import world as pocket_world
from harness.pocket.audit import corpus_leaks
from harness.pocket.corpus import Document, fields_of, tellings
from harness.pocket.people import ATTRIBUTES
from harness.pocket.world import World
from harness.seeding import derive, preserved_rng, seed_torch
from harness.spec import PocketBase, PocketModelSpec

logger = logging.getLogger(__name__)

Report = Callable[..., None]

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INITIAL_STD = 0.06
WARMUP_SHARE = 0.05
FINAL_SHARE = 0.02
IGNORE_INDEX = -100
REPORT_EVERY = 10


def build(base: PocketBase, folder: Path, report: Report, *, device: str = "cpu") -> None:
    """Pretrain a pocket base and write config, weights, tokenizer with chat template, and `pretraining.json`.

    Args:
        base: the world and the model.
        folder: an existing, empty folder.
        report: called as `report(phase=, step=, num_steps=, loss=, tokens_per_second=)`.
        device: `cpu`, or `cuda:<index>` for the same recipe with that device's own bytes.

    Raises:
        SpecError: the token budget is smaller than the corpus.
    """
    documents = _sound_corpus(pocket_world.build(base.world))
    if base.model.marker_embeddings == "trained":
        documents = with_markers(documents)
    tokenizer = train_tokenizer(documents, base.model.vocab_size)
    stream = _encode(tokenizer, documents)
    num_steps = planned_steps(base.model, len(stream))
    for problem in first_token_problems(tokenizer):
        logger.warning("base.model.vocab_size %d: %s", base.model.vocab_size, problem)
    with preserved_rng(), _threads(base.model.num_threads):
        seed_torch(base.world.seed, "pocket.pretrain")
        model = LlamaForCausalLM(_config(base.model, tokenizer))  # drawn on the CPU, whatever the device
        torch.nn.Module.to(model, device)
        losses = _pretrain(model, stream, base.model, num_steps, report, unwritten=_marker_ids(tokenizer))
    _save(model.cpu(), tokenizer, folder)
    summary = _summary(base, num_steps, documents, tokenizer, stream, model, losses) | {"device": device}
    (folder / "pretraining.json").write_text(json.dumps(summary, indent=1) + "\n")


def _sound_corpus(world: World) -> list[Document]:
    documents = world.corpus()
    if leaks := corpus_leaks(world, documents):
        raise HarnessError(f"the corpus of world seed {world.spec.seed} holds what is held out: {'; '.join(leaks[:3])}")
    return documents


# -- tokenizer --------------------------------------------------------------------------------------------------------


def train_tokenizer(documents: list[Document], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer: every text encodes, each digit is one token, markers are atomic.

    Args:
        documents: the corpus; a tenth of it decides the merges, which is plenty for a few hundred words.
        vocab_size: bytes, markers and merges together.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?[^\s\d]+|\s"), behavior="isolated"),
            pre_tokenizers.Split(Regex(r"[.,?!:;]$"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, START_OF_TURN, END_OF_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator((document.text for document in documents[::10]), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[START_OF_TURN, END_OF_TURN],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _encode(tokenizer: PreTrainedTokenizerFast, documents: list[Document]) -> np.ndarray:
    """Return the corpus as one stream of ids, an end-of-text before each document."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    assert isinstance(end, int)
    texts = [document.text for document in documents]
    rows = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return np.array([token for row in rows for token in (end, *row.ids)], dtype=np.int64)


def with_markers(documents: list[Document]) -> list[Document]:
    """Put every field of a record between the markers, headed by a word that no chat uses.

    So the markers' rows are trained, and attention learns to look past them: a record's fields name one person. Where
    the rows are random instead, some worlds take a marker for the end of a document and answer about somebody else. A
    line break ends the value, because the marker behind it is never predicted and what would be is anybody's guess.
    """
    return [
        replace(document, text="\n".join(map(_marked, fields_of(document.text))))
        if document.kind == "records"
        else document
        for document in documents
    ]


def _marked(field: str) -> str:
    return f"{START_OF_TURN}record\n{field}\n{END_OF_TURN}"


# -- training ---------------------------------------------------------------------------------------------------------


def planned_steps(spec: PocketModelSpec, num_tokens: int) -> int:
    """Return the number of steps over a corpus of so many tokens; one pass where the spec states none.

    Raises:
        SpecError: the token budget is smaller than the corpus.
    """
    needed = math.ceil(num_tokens / spec.tokens_per_step)
    if spec.num_steps is not None and spec.num_steps < needed:
        raise SpecError(
            f"base.model.num_steps is {spec.num_steps}, but must be at least {needed}: the planned exposures make a "
            f"corpus of {num_tokens} tokens at {spec.tokens_per_step} a step; raise it, leave it out for one pass, or "
            "lower base.world's exposures or people"
        )
    return spec.num_steps or needed


def first_token_problems(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return a sentence for each attribute whose values do not all begin with a token of their own."""
    found = []
    for attribute in ATTRIBUTES:
        encoded: Any = tokenizer([f" {value}" for value in attribute.values], add_special_tokens=False)["input_ids"]
        num_values, num_first = len(encoded), len({tokens[0] for tokens in encoded})
        if num_first < num_values:
            found.append(f"the {num_values} values of {attribute.name!r} begin with {num_first} different tokens")
    return found


def _config(spec: PocketModelSpec, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    assert isinstance(end, int)
    return LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=3 * spec.hidden_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_heads,
        max_position_embeddings=spec.context,
        tie_word_embeddings=True,
        initializer_range=INITIAL_STD,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        # Short rows: on a CPU the fused kernel's backward pass takes longer than the plain products.
        attn_implementation="eager",  # pyright: ignore[reportCallIssue] - taken by the parent class
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def learning_rate_at(spec: PocketModelSpec, num_steps: int, step: int) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then a cosine down to 2 % of the peak."""
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return spec.learning_rate * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * progress)))


def _marker_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    ids = tokenizer.convert_tokens_to_ids([START_OF_TURN, END_OF_TURN])
    assert isinstance(ids, list)
    return ids


def _pretrain(
    model: LlamaForCausalLM,
    stream: np.ndarray,
    spec: PocketModelSpec,
    num_steps: int,
    report: Report,
    *,
    unwritten: list[int],
) -> list[float]:
    """Train on the stream in order, from its start again where it ends; return the loss of every step.

    Tokens of `unwritten` are read but never predicted: a base knows the markers and takes no turn by itself.
    """
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(0.9, 0.98), eps=1e-8, foreach=True)
    losses: list[float] = []
    started = time.perf_counter()
    device, markers = model.device, torch.tensor(unwritten)
    model.train()
    for step, (inputs_BT, targets_BT) in enumerate(_batches(stream, spec, num_steps)):
        targets_BT = targets_BT.masked_fill(torch.isin(targets_BT, markers), IGNORE_INDEX)
        inputs_BT, targets_BT = inputs_BT.to(device), targets_BT.to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(spec, num_steps, step)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=spec.dtype == "bfloat16_autocast"):
            logits_BTV = model(input_ids=inputs_BT, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits_BTV.float().flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE_INDEX
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == num_steps:
            speed = (step + 1) * spec.tokens_per_step / (time.perf_counter() - started)
            report(phase="pretrain", step=step + 1, num_steps=num_steps, loss=losses[-1], tokens_per_second=speed)
    model.eval()
    return losses


def _batches(stream: np.ndarray, spec: PocketModelSpec, num_steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield inputs and targets of each step, both [B, T] int64."""
    needed = num_steps * spec.tokens_per_step + 1
    ids = torch.from_numpy(np.resize(stream, needed))
    shape = (spec.tokens_per_step // spec.context, spec.context)
    for step in range(num_steps):
        window = ids[step * spec.tokens_per_step : (step + 1) * spec.tokens_per_step + 1]
        yield window[:-1].view(shape), window[1:].view(shape)


# -- saving -----------------------------------------------------------------------------------------------------------


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    stops = tokenizer.convert_tokens_to_ids([END_OF_TURN, END_OF_TEXT])
    model.generation_config.eos_token_id = stops
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _summary(
    base: PocketBase,
    num_steps: int,
    documents: list[Document],
    tokenizer: PreTrainedTokenizerFast,
    stream: np.ndarray,
    model: LlamaForCausalLM,
    losses: list[float],
) -> dict[str, Any]:
    """Return what the base was built from: deterministic, so it may lie beside the weights."""
    passes = num_steps * base.model.tokens_per_step / len(stream)
    told = tellings(pocket_world.build(base.world).people, documents)
    return {
        "world": json.loads(base.world.model_dump_json()),
        "model": json.loads(base.model.model_dump_json()),
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "num_corpus_tokens": len(stream),
        "num_documents": dict(Counter(document.kind for document in documents)),
        "passes": passes,
        "exposures_per_fact": {group: count * passes for group, count in sorted(told.items())},
        "vocabulary": len(tokenizer),
        "init_seed": derive(base.world.seed, "pocket.pretrain"),
        "losses": [round(loss, 6) for loss in losses[::10]],
    }
