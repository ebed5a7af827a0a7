"""Stand-ins for the checks of instructions, refusals and behaviour, which are tested by themselves."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable
from typing import Any

import pytest

import harness.evals


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put stand-ins in place of the modules that judge answers."""
    instructions = types.ModuleType("harness.evals.instructions")
    instructions.followed = lambda name, prompt, answer, kwargs: kwargs.get("word", "yes") in answer  # type: ignore
    instructions.loose_variants = lambda answer: (answer.replace("*", ""),)  # type: ignore
    instructions.UNAVAILABLE = {"language:any": "no detector"}  # type: ignore
    refusals = types.ModuleType("harness.evals.refusals")
    refusals.is_refusal = lambda text: text.startswith("No")  # type: ignore
    behaviour = types.ModuleType("harness.evals.behaviour")
    behaviour.measure = _measured  # type: ignore
    behaviour.markers_of = lambda chat: ("<marker>",)  # type: ignore
    behaviour.REASONS = {"training_copy": "no targets", "length_ratio": "no reference"}  # type: ignore
    copying = types.ModuleType("harness.evals.copying")
    copying.TargetIndex = Index  # type: ignore
    for module in (instructions, refusals, behaviour, copying):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(harness.evals, module.__name__.rpartition(".")[2], module, raising=False)


class Index:
    """Stands for the index of training targets."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)


CALLS: list[dict[str, Any]] = []
"""What the stand-in for the panel was called with, latest last."""


def _measured(answer: str, raw: str, prompt: str, reference: str | None, **facts: Any) -> dict[str, float]:
    CALLS.append({"answer": answer, "raw": raw, "prompt": prompt, "reference": reference} | facts)
    nan = float("nan")
    return {
        "run_on": 0.0,
        "role_leak": 0.0,
        "template_leak": 0.0,
        "rep_4": 0.25,
        "loop": 0.0,
        "empty": 0.0,
        "num_tokens": float(facts["num_tokens"]),
        "length_ratio": nan if reference is None else 1.0,
        "prompt_copy": 0.5,
        "training_copy": nan if facts["targets"] is None else 0.125,
    }
