"""A spec written out in full, independent of what ships, for tests that pin bytes."""

from __future__ import annotations

from harness.spec import (
    DataSpec,
    EvalSpec,
    EvalTask,
    FileData,
    FileItems,
    FolderBase,
    LoraConfig,
    TrainSpec,
    TrialSpec,
)

HASH = "0123456789abcdef" * 4


def pinned_spec() -> TrialSpec:
    """Return a LoRA trial on a folder, its data and its items in files."""
    return TrialSpec(
        base=FolderBase(content_sha256=HASH, path="/somewhere/model"),
        data=DataSpec(
            source=FileData(sha256=HASH, format="messages", path="/somewhere/chats.jsonl"),
            num_examples=100,
            num_validation=10,
            template="tokenizer",
            max_length=256,
            too_long="drop",
            prompt_loss_weight=0.0,
            train_on_end_of_turn=True,
            packing="off",
        ),
        method=LoraConfig(rank=8, alpha=16.0, target_modules="all_linear"),
        train=TrainSpec(
            num_epochs=3.0,
            batch_size=16,
            learning_rate=1e-3,
            schedule="cosine",
            warmup_ratio=0.1,
            weight_decay=0.0,
            adam_beta1=0.9,
            adam_beta2=0.999,
            max_grad_norm=1.0,
            dtype="float32",
            loss_reduction="token_mean",
            loss_limit=20.0,
        ),
        evals=EvalSpec(
            tasks=(
                EvalTask(
                    suite="mc",
                    name="arc",
                    kind="multiple_choice",
                    source=FileItems(sha256=HASH, path="/somewhere/arc.jsonl"),
                    measure="retained",
                    primary=True,
                    chat=False,
                    num_items=50,
                ),
            ),
            items_seed=0,
            val_share=0.2,
            dtype="float32",
            max_length=256,
        ),
        seed=1,
    )
