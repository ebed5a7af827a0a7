"""Qwen2.5-7B (Apache-2.0, ungated): 7.6 B parameters, for a GPU of 80 GB (full), 24 GB (LoRA) or 12 GB (QLoRA).

    make fetch BASE=qwen2_5_7b            # 15 GB; resolves and pins the revision in experiments/hub.lock.json
    make sweep NAME=method BASE=qwen2_5_7b DATA=my_chats.jsonl EVALS=my_items/

The hub id is not used before it is pinned: until then `EXPERIMENT` is refused with the command that pins it, while
importing this module does nothing. The tokenizer brings a ChatML template. Full fine-tuning holds bfloat16 weights,
gradient and moments, 8 bytes a parameter: 61 GB. Reference learning rates are starting points, not measured optima.
"""

from __future__ import annotations

from pathlib import Path

from experiments._real import experiment
from harness.spec import Experiment, HubBase, HubItem, pinned_revision

NAME = "qwen2_5_7b"
ITEM = HubItem(repo_id="Qwen/Qwen2.5-7B")
FETCH = (ITEM,)
LOCK = Path(__file__).with_name("hub.lock.json")


def __getattr__(name: str) -> Experiment:
    """Return `EXPERIMENT`, built when asked for: its base needs the lock.

    Raises:
        ModelError: the hub id is not pinned yet.
    """
    if name != "EXPERIMENT":
        raise AttributeError(name)
    return experiment(
        name=NAME,
        base=HubBase(repo_id=ITEM.repo_id, revision=pinned_revision(ITEM, LOCK, experiment=NAME)),
        template="tokenizer",
        dtype="bfloat16",
        full_learning_rate=1e-5,
        adapter_learning_rate=1e-4,
        num_threads=8,
    )
