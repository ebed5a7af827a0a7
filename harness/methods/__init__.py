"""How a base model is made trainable: one module per method, and the registry that finds it by `kind`.

Invariant: a method is reached through this registry alone, so that a new one is one module and one line. What does not
live here: method configurations (harness/spec), training.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.methods import full, lora, qlora
from harness.methods.protocol import Keep, Method
from harness.records.store import disk_errors, write_manifest
from harness.spec import MethodConfig, Quantisation

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["METHODS", "Method", "attach", "check", "count_parameters", "held_bytes", "quantisation", "save"]

GENERATION = "generation_config.json"
ADAPTER_PARTS = ("lora_", "trainable_tokens_")
"""In the names of what peft puts beside a base."""
METHODS: dict[str, Method] = {"full": full, "lora": lora, "qlora": qlora}


def quantisation(config: MethodConfig) -> Quantisation | None:
    """Return how a method wants the base held, or None for full precision."""
    return METHODS[config.kind].quantisation(config)


def attach(model: PreTrainedModel, config: MethodConfig, *, seed: int, added: Sequence[int] = ()) -> nn.Module:
    """Return the model to train. What is drawn depends on the seed's stream `method.init` alone.

    Args:
        model: the base.
        config: the method.
        seed: the trial's.
        added: ids of tokens that the base was never trained on; every method trains their rows.

    Raises:
        ModelError: the configuration does not fit the model.
    """
    return METHODS[config.kind].attach(model, config, seed=seed, added=added)


def check(model: PreTrainedModel, config: MethodConfig) -> None:
    """Refuse a configuration that `attach` would refuse for the model's layers; their weights are not looked at.

    Raises:
        ModelError: the configuration does not fit the model.
    """
    METHODS[config.kind].check(model, config)


def save(
    model: nn.Module,
    config: MethodConfig,
    folder: Path,
    keep: Keep,
    tokenizer: PreTrainedTokenizerBase | None = None,
    stop_token_ids: Sequence[int] = (),
) -> None:
    """Write the trained weights, safetensors with a sha256 manifest, as far as they are to stay.

    `none` keeps nothing, `adapter` what a method trained beside its base, `all` full weights too. A folder left by an
    earlier attempt is removed in each case; the new one appears by one rename.

    Args:
        model: what `attach` returned.
        folder: where the weights go.
        keep: which stay.
        tokenizer: saved beside the weights, with the template it was trained with, if given.
        stop_token_ids: what ends an answer, saved as the `eos_token_id` of generation, if given.

    Raises:
        DiskError: the disk is full or read-only.
    """
    method = METHODS[config.kind]
    building = folder.with_name(f".{folder.name}.building")
    with disk_errors(folder):
        for leftover in (building, folder):
            if leftover.exists():
                shutil.rmtree(leftover)
        if keep not in method.KEPT_BY:
            return
        building.mkdir(parents=True)
        method.write(model, building)
        if tokenizer is not None:
            tokenizer.save_pretrained(building)
        if stop_token_ids:
            _write_stops(building / GENERATION, stop_token_ids)
        write_manifest(building)
        os.rename(building, folder)


def _write_stops(path: Path, stop_token_ids: Sequence[int]) -> None:
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(held | {"eos_token_id": list(stop_token_ids)}, indent=2, sort_keys=True) + "\n")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return (trained, base): weights that require a gradient, and weights of the base without any adapter.

    Tied weights count once; a 4-bit weight counts as one although two share a byte. The share that papers print is
    trained / base.
    """
    trained = base = 0
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        size = parameter.numel() if state is None else state.shape.numel()
        trained += size if parameter.requires_grad else 0
        base += 0 if any(part in name for part in ADAPTER_PARTS) else size
    return trained, base


def held_bytes(model: nn.Module) -> dict[str, int]:
    """Return the bytes that a model takes while it trains, without what passes need: its base as it is held, what a
    method put beside it, and gradient and the optimizer's two moments of what is trained, each in the weights' dtype.

    The names are those of `MemoryUse`. Tied weights count once, 4-bit ones with their scales.
    """
    base = adapter = trained = 0
    for name, parameter in model.named_parameters():
        size = parameter.numel() * parameter.element_size() + _scale_bytes(parameter)
        trained += size if parameter.requires_grad else 0
        if any(part in name for part in ADAPTER_PARTS):
            adapter += size
        else:
            base += size
    base += sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    moments = 2 * trained
    return {
        "weights_bytes": base,
        "adapter_bytes": adapter,
        "gradient_bytes": trained,
        "optimiser_bytes": moments,
    }


def _scale_bytes(parameter: nn.Parameter) -> int:
    """Return what the scales of a 4-bit weight take, those of its scales included; 0 of any other."""
    state = getattr(parameter, "quant_state", None)
    outer = getattr(state, "state2", None)
    held = [getattr(one, "absmax", None) for one in (state, outer)]
    return sum(scales.numel() * scales.element_size() for scales in held if scales is not None)
