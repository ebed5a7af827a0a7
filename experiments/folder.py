"""The experiment for `BASE=path`: any local folder with a causal language model and its tokenizer.

    make sweep NAME=lima_size BASE=models/stories15M DATA=my_chats.jsonl EVALS=my_items/

Its name is the folder's, a dash and 8 hex digits of the hash of its contents: two folders of one name never share a
sweep's folder, and no name of an experiment that ships has a dash.
A folder whose tokenizer brings a chat template is trained in it; for any other this experiment names `chatml_lite`,
whose turn markers are cut into the tokens the base already has. Sequences are as long as the base allows, 512 tokens
at most. The reference learning rates are those of small Llamas; a sweep over them comes first on a base that matters.
"""

from __future__ import annotations

import re

from experiments._real import experiment
from harness.spec import Experiment, FolderBase

MAX_LENGTH = 512
NUM_DIGITS = 8
"""Of the content's hash, in the experiment's name."""


def from_folder(base: FolderBase, *, has_chat_template: bool, context: int | None) -> Experiment:
    """Return the experiment of a folder.

    Args:
        base: the folder's reference; the last part of its path and its hash name the experiment.
        has_chat_template: whether its tokenizer brings a chat template.
        context: the longest sequence it was built for, in tokens; None is unknown.
    """
    last = base.path.rstrip("/").rsplit("/", 1)[-1]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-_.")[: 64 - 1 - NUM_DIGITS] or "folder"
    return experiment(
        name=f"{name}-{base.content_sha256[:NUM_DIGITS]}",
        base=base,
        template="tokenizer" if has_chat_template else "chatml_lite",
        dtype="float32",
        full_learning_rate=5e-5,
        adapter_learning_rate=5e-4,
        num_threads=1,
        max_length=min(MAX_LENGTH, context or MAX_LENGTH),
    )
