"""Scoring several adapters of one base that is loaded once.

Invariant: each adapter gets the same bytes as alone on a fresh base, and afterwards the model is as it was: active
adapters, what is trainable, mode, random state. What does not live here: loading adapters (`PeftModel.load_adapter`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from harness.errors import ModelError, nearest
from harness.evals.model_pair import refuse_merged
from harness.evals.scoring import ask, scorer_of
from harness.evals.table import ItemRow
from harness.spec import EvalSpec

if TYPE_CHECKING:
    from peft import PeftModel

    from harness.data import ChatFormat


def item_rows_of_adapters(
    model: PeftModel, adapters: Sequence[str | None], chat: ChatFormat, spec: EvalSpec, *, batch_size: int
) -> dict[str | None, list[ItemRow]]:
    """Return the item rows of each named adapter, and of the bare base for None; items are encoded once.

    One adapter after the other is made active (`set_adapter`, for the base `disable_adapter`). peft can also name an
    adapter for every row of a batch (`adapter_names`), but then each layer splits the batch by adapter: the work is the
    same in smaller products, which add in another order, so the bytes are not those of the adapter alone; and DoRA
    refuses it.

    Args:
        model: a base with adapters on it; it is the same afterwards.
        adapters: names as the model knows them (`model.peft_config`), each once; None is the base without any.
        chat: tokenizer and template.
        spec: what to ask.
        batch_size: rows computed together.

    Raises:
        ModelError: a name that the model does not have, or an adapter is merged into the base, so that neither the
            others nor the base can be scored.
        DataError: items that are missing or cannot be asked.
    """
    _refuse(model, adapters)
    scorer = scorer_of(model, chat, spec, batch_size)
    rows: dict[str | None, list[ItemRow]] = {}
    with _as_it_was(model):
        for adapter in adapters:
            with _active(model, adapter):
                rows[adapter] = ask(scorer, spec)
    return rows


def _refuse(model: PeftModel, adapters: Sequence[str | None]) -> None:
    names = sorted(model.peft_config)
    for adapter in adapters:
        if adapter is not None and adapter not in names:
            raise ModelError(
                f"adapters holds {adapter!r}, but must be of {', '.join(names)}; load it with load_adapter."
                f"{nearest(adapter, names)}"
            )
    refuse_merged(model)


@contextmanager
def _active(model: PeftModel, adapter: str | None) -> Iterator[None]:
    if adapter is None:
        with model.disable_adapter():
            yield
    else:
        model.set_adapter(adapter, inference_mode=True)
        yield


@contextmanager
def _as_it_was(model: PeftModel) -> Iterator[None]:
    """Enable adapters inside; afterwards the same ones are active, and enabled or not, as before.

    Every switch of peft also decides what is trainable, so that is put back last.
    """
    tuner: Any = model.base_model
    active, active_of_tuner = model.active_adapter, tuner.active_adapter
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    is_enabled = model.get_model_status().enabled is not False
    tuner.enable_adapter_layers()
    try:
        yield
    finally:
        tuner.set_adapter(active_of_tuner)
        model.active_adapter = cast(str, active)
        if not is_enabled:
            tuner.disable_adapter_layers()
        for parameter, was_trainable in trainable:
            parameter.requires_grad_(was_trainable)
