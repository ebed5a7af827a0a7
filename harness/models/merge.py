"""A trained adapter merged into the base it was trained on.

Invariant: the merged model is the trained one. An adapter trained over 4-bit weights is merged into those weights
dequantised to float32, not into the original ones it never saw; nothing is merged into 4-bit storage, which would round
the adapter away. What does not live here: loading (load.py).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness.models.files import GENERATION, BaseFiles, tokenizer_files
from harness.models.load import load_model
from harness.models.scan import scan_adapter
from harness.models.vocabulary import grow
from harness.spec import Quantisation


def write_merged(
    base: BaseFiles, adapter: Path, quantisation: Quantisation | None, tokenizer_folder: Path, folder: Path
) -> None:
    """Write base plus adapter as a plain float32 model folder with its tokenizer.

    Args:
        base: what the adapter was trained on.
        adapter: a folder written by peft.
        quantisation: how that base was held while the adapter was trained.
        tokenizer_folder: the tokenizer to put beside the weights.
        folder: an empty folder.
    """
    from peft import PeftModel

    scan_adapter(adapter)
    model = load_model(base, "float32", "cpu", quantisation)
    if quantisation is not None:
        model = model.dequantize()
    grow(model, max(_trained_rows(adapter), default=-1) + 1)
    merged = PeftModel.from_pretrained(model, str(adapter), torch_device="cpu").merge_and_unload(safe_merge=True)
    merged.config.use_cache = True
    if (adapter / GENERATION).is_file():
        merged.generation_config.eos_token_id = json.loads((adapter / GENERATION).read_text())["eos_token_id"]
    merged.save_pretrained(folder)
    for path in tokenizer_files(tokenizer_folder):
        target = folder / path.relative_to(tokenizer_folder)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)


def _trained_rows(adapter: Path) -> list[int]:
    """Return the ids of tokens whose rows an adapter brings along."""
    rows = json.loads((adapter / "adapter_config.json").read_text()).get("trainable_token_indices") or []
    return [token for ids in rows.values() for token in ids] if isinstance(rows, dict) else rows
