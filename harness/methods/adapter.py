"""Low-rank adapters through peft: which layers, how they start, how they are saved.

Invariant: the adapter's start depends on the seed alone, not on the state of any generator, and drawing it leaves every
generator as it was. peft is imported when called: full fine-tuning does not wait for it. What does not live here: the
configurations (harness/spec), 4-bit loading (harness/models).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.errors import ModelError
from harness.seeding import preserved_rng, seed_torch
from harness.spec import LoraConfig, QLoraConfig

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

# A layer belongs to attention or MLP by the block it sits in; OPT-like models put fc1 and fc2 beside the blocks.
ATTENTION_BLOCKS = frozenset({"self_attn", "attn", "attention", "self_attention"})
MLP_BLOCKS = frozenset({"mlp", "feed_forward", "ffn"})
MLP_LAYERS = frozenset({"fc1", "fc2"})


def attach_adapter(
    model: PreTrainedModel, config: LoraConfig | QLoraConfig, *, seed: int, added: Sequence[int] = ()
) -> PeftModel:
    """Return the model with a fresh adapter on every target layer and everything else frozen, save rows of `added`.

    Args:
        model: the base.
        config: of the adapter.
        seed: drives its start.
        added: ids of tokens whose rows in embedding and output layer are trained and saved with the adapter.

    Raises:
        ModelError: no layer matches, the rank exceeds a layer's shorter side, or single rows cannot be trained.
    """
    import peft

    layers = checked_layers(model, config)
    adapter = peft.LoraConfig(
        r=config.rank,
        lora_alpha=cast(int, config.alpha),  # any number serves; peft's annotation is narrower
        lora_dropout=config.dropout,
        target_modules=target_names(model, layers),
        use_rslora=config.rank_scaling == "alpha_over_sqrt_rank",
        bias="none",
        init_lora_weights=True,
        task_type="CAUSAL_LM",
        trainable_token_indices=trained_rows(model, added),
    )
    with preserved_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by a name that will go
        seed_torch(seed, "method.init")
        return peft.get_peft_model(model, adapter)


def trained_rows(model: PreTrainedModel, added: Sequence[int]) -> list[int] | dict[str, list[int]] | None:
    """Return the rows that are trained beside adapters as peft is told: ids where the output layer is tied to the
    embedding, and else those of each by its full name; None without any.

    Raises:
        ModelError: the output layer has a bias, which peft leaves out where it trains rows.
    """
    if not added:
        return None
    embedding: Any = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()
    if getattr(output, "bias", None) is not None:
        raise ModelError(
            f"data.markers is 'tokens', but must be 'as_is' or 'text' because the output layer of "
            f"{type(model).__name__} has a bias, which peft leaves out where it trains single rows; "
            "use method 'full', or a template whose markers the tokenizer has"
        )
    if output.weight is embedding.weight:
        return list(added)
    return {name: list(added) for name, module in model.named_modules() if module is embedding or module is output}


def checked_layers(model: PreTrainedModel, config: LoraConfig | QLoraConfig) -> dict[str, nn.Linear | Conv1D]:
    """Return the target layers by full name, each large enough for the rank.

    Raises:
        ModelError: no layer matches, or the rank exceeds a layer's shorter side.
    """
    layers = target_layers(model, config.target_modules)
    _check_rank(layers, config)
    return layers


def target_layers(model: PreTrainedModel, targets: str) -> dict[str, nn.Linear | Conv1D]:
    """Return the linear layers, by full name, that adapters go on; the output layer is never one.

    Raises:
        ModelError: there are none.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not output
    }
    chosen = {name: module for name, module in layers.items() if targets in ("all_linear", _part_of(name))}
    if not chosen:
        raise ModelError(
            f"method.target_modules is {targets!r}, but must match a linear layer of {type(model).__name__}, which has "
            f"{', '.join(sorted({name.rsplit('.', 1)[-1] for name in layers})) or 'none'}; use 'all_linear'"
        )
    return chosen


def _part_of(name: str) -> str:
    *blocks, layer = name.split(".")
    if ATTENTION_BLOCKS & set(blocks):
        return "attention"
    return "mlp" if MLP_BLOCKS & set(blocks) or layer in MLP_LAYERS else "other"


def target_names(model: nn.Module, layers: Collection[str]) -> list[str]:
    """Return the shortest names that mean exactly these layers to peft, sorted: last parts where they suffice."""
    last_parts = {name.rsplit(".", 1)[-1] for name in layers}
    meant = {name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in last_parts}
    return sorted(last_parts) if meant == set(layers) else sorted(layers)


def layer_shape(layer: nn.Linear | Conv1D) -> tuple[int, int]:
    """Return (inputs, outputs) of a linear layer, however its weight is stored: 4-bit ones hold another shape."""
    from torch import nn

    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (layer.nx, layer.nf)


def _check_rank(layers: dict[str, nn.Linear | Conv1D], config: LoraConfig | QLoraConfig) -> None:
    name, limit = min(((name, min(layer_shape(layer))) for name, layer in layers.items()), key=lambda item: item[1])
    if config.rank > limit:
        raise ModelError(
            f"method.rank is {config.rank}, but must be at most {limit}, the shorter side of {name}; "
            "lower it or choose other target_modules"
        )


def write_adapter(model: PeftModel, folder: Path) -> None:
    """Write adapter weights and configuration, byte for byte the same wherever the base lies.

    The path of the base, which peft writes down, is left out: `PeftModel.from_pretrained(base, folder)` needs none.
    """
    # "auto" for the embeddings would look the base up on the hub.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card: holds the path as well
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = None
    for field in ("target_modules", "exclude_modules"):
        if isinstance(config.get(field), list):
            config[field] = sorted(config[field])  # peft holds a set, whose order differs between processes
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
