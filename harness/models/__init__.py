"""From a base reference to weights and tokenizer on disk, and from there to a model.

Importing this package imports no torch: `describe_folder` serves the plan. `load_model` and `load_tokenizer` import it
when called.
"""

from __future__ import annotations

from harness.models.files import BaseFiles, describe_folder, inspect_folder, planned_sha256
from harness.models.halvings import Halvings
from harness.models.load import load_model, load_tokenizer, model_without_weights, resolve_device
from harness.models.locate import fetched_key, locate
from harness.models.vocabulary import add_rows

__all__ = [
    "BaseFiles",
    "Halvings",
    "add_rows",
    "describe_folder",
    "fetched_key",
    "inspect_folder",
    "load_model",
    "load_tokenizer",
    "locate",
    "model_without_weights",
    "planned_sha256",
    "resolve_device",
]
