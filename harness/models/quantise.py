"""A base in 4 bits, on CPU and GPU.

Invariant: a quantised layer computes with the weights that its codes stand for, the same before and after an
evaluation, and passes gradients. What does not live here: which methods quantise (harness/methods).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from harness.spec import DType, Quantisation

if TYPE_CHECKING:
    from bitsandbytes.nn.modules import Linear4bit
    from torch import nn
    from transformers import BitsAndBytesConfig


def quantisation_config(quantisation: Quantisation, dtype: DType) -> BitsAndBytesConfig:
    """Return the loading configuration: weights in blocks of 64, their scales, if doubly quantised, in blocks of 256.

    Products are computed in float32 for dtype `float32` and in bfloat16 otherwise.

    Source: Dettmers et al., arXiv:2305.14314, section 3.
    """
    import torch
    from transformers import BitsAndBytesConfig

    # The import of bitsandbytes logs that an optional package, which would download code, is absent.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantisation.kind,
        bnb_4bit_use_double_quant=quantisation.double,
        bnb_4bit_compute_dtype=torch.float32 if dtype == "float32" else torch.bfloat16,
    )


def make_faithful(model: nn.Module) -> None:
    """Guard a model just loaded in 4 bits against what bitsandbytes does on CPU: wrong unpacking, and repacking."""
    from harness.models import four_bit_cpu

    if any(layer.weight.device.type == "cpu" for layer in four_bit_layers(model)):
        four_bit_cpu.repair()
    keep_layout(model)


def keep_layout(model: nn.Module) -> None:
    """Forbid every 4-bit layer to change its weights' layout.

    Where the processor has AVX512-BF16, bitsandbytes repacks a layer's weights at its first forward in evaluation mode:
    later training gets no gradient through it, outputs drift, and sizes that are no multiple of 32 raise.
    """
    for layer in four_bit_layers(model):
        layer.support_avx512bf16_for_cpu = False


def four_bit_layers(model: nn.Module) -> list[Linear4bit]:
    """Return the 4-bit linear layers of a model."""
    from bitsandbytes.nn.modules import Linear4bit

    return [module for module in model.modules() if isinstance(module, Linear4bit)]
