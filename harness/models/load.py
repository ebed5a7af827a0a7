"""From checked files to a tokenizer and a model in memory.

Invariant: loading is complete and explicit - a tensor that the files do not hold is an error, never a fresh random one;
dtype, attention and device are stated; nothing is downloaded and no code of a model runs. Loading draws no random
number. torch and transformers are imported when called, so that the plan can import this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.errors import DeviceError, ModelError
from harness.models.files import BaseFiles
from harness.seeding import preserved_rng
from harness.spec import DType, Quantisation

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ATTENTION = "sdpa"


def load_tokenizer(files: BaseFiles) -> PreTrainedTokenizerBase:
    """Return a base's tokenizer.

    Raises:
        ModelError: it cannot be loaded, or has ids that the model has no embedding for.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            files.tokenizer_folder, local_files_only=True, trust_remote_code=False
        )
    except _unloadable() as error:
        raise ModelError(
            f"the tokenizer in {files.tokenizer_folder} cannot be loaded ({_first_line(error)})"
        ) from error
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= files.vocab_size:
        raise ModelError(
            f"the tokenizer in {files.tokenizer_folder} has id {highest}, but must stay below the model's vocab_size "
            f"of {files.vocab_size}; resize the model's embeddings and save it again"
        )
    return tokenizer


def load_model(
    files: BaseFiles, dtype: DType, device: str, quantisation: Quantisation | None = None
) -> PreTrainedModel:
    """Return a base's model in evaluation mode, without a key-value cache.

    Args:
        files: from `locate`.
        dtype: `float32` and `bfloat16_autocast` hold float32 weights (autocast is the caller's), `bfloat16` bfloat16.
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        quantisation: hold the linear layers, the output layer excepted, in 4 bits.

    Raises:
        ModelError: the device or the dtype is not to be had here, or the files are not a causal language model.
    """
    settings: dict[str, Any] = {
        "dtype": weights_dtype(dtype),
        "attn_implementation": ATTENTION,
        "device_map": {"": resolve_device(device, dtype)},
    }
    if quantisation is None:
        model = _from_files(files, settings)
    else:
        from harness.models import quantise

        settings["quantization_config"] = quantise.quantisation_config(quantisation, dtype)
        model = _from_files(files, settings)
        quantise.make_faithful(model)
    model.config.use_cache = False  # with a cache, packed rows are no longer kept apart
    return model


def model_without_weights(files: BaseFiles) -> PreTrainedModel:
    """Return a base's model with its layers and their shapes alone: no weight is read, none takes memory.

    Raises:
        ModelError: the files are not a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
        with preserved_rng(), _quiet(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)
    except _unloadable() as error:
        raise ModelError(f"the model in {files.folder} cannot be loaded ({_first_line(error)})") from error


def _from_files(files: BaseFiles, settings: dict[str, Any]) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        with preserved_rng(), _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                files.folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **settings,
            )
    except _unloadable() as error:
        if _is_out_of_memory(error):
            raise
        raise ModelError(f"the model in {files.folder} cannot be loaded ({_first_line(error)})") from error
    model, loading = loaded
    _refuse_missing_tensors(files, loading)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    # Progress bars, and a table of missing tensors that the caller's sentence replaces.
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def weights_dtype(dtype: DType) -> torch.dtype:
    """Return the torch dtype that weights are held in."""
    import torch

    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def resolve_device(device: str, dtype: DType) -> str:
    """Return `cpu` or `cuda:<index>`.

    Raises:
        DeviceError: there is no such device here, or it does not compute in the dtype.
    """
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise DeviceError(
            f"runtime.device is {device!r}, but must be 'cpu' or 'auto' on a machine without a usable GPU"
        )
    if dtype != "float32" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        raise DeviceError(f"train.dtype is {dtype!r}, but must be 'float32' on {name}, which lacks bfloat16")
    return f"cuda:{torch.cuda.current_device()}"


def _refuse_missing_tensors(files: BaseFiles, loading: dict[str, Any]) -> None:
    for what in ("missing_keys", "mismatched_keys"):
        names = sorted(map(str, loading.get(what) or ()))
        if names:
            raise ModelError(
                f"the weights in {files.folder} lack {names[0]} and {len(names) - 1} more tensors of the configured "
                "shape, but must hold all; copy or download the model again"
            )


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def _unloadable() -> tuple[type[Exception], ...]:
    """Return what the libraries raise of files that make no model."""
    from huggingface_hub.errors import StrictDataclassError

    plain = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, ImportError, RuntimeError)
    return (*plain, StrictDataclassError)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines() or [type(error).__name__])[0][:200]
