"""Sweeps that figure kinds draw from: made of schema objects, with every panel that a kind reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.context import Context
from analysis.figure_kinds import KINDS
from analysis.opened import open_sweep, sweep_folders
from analysis.points import FigureData
from harness.records.schema import SweepRecord
from harness.records.store import Store, write_atomic
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build

ARMS = (ARM, "equal_steps")
SMALL: dict[str, Any] = {"arms": (ARM,), "seeds": (0, 1), "scale": 0.1}
REPLAY = {"kind": "file", "sha256": "ab" * 32, "format": "text", "path": "/data/prose.jsonl"}


@dataclass(frozen=True)
class Maker:
    """A sweep and the kinds that are drawn from it."""

    kinds: tuple[str, ...]
    plan: dict[str, Any]
    change: Callable[[Store, str], None] | None = None
    """What is added to its records."""


def with_panels(store: Store, folder: str) -> None:
    """Give every trial scores during training, scores between base and tuned, and a drift panel."""
    for trial in open_sweep(store, folder).trials:
        items = pd.read_parquet(trial.folder / "items.parquet")
        seed, size = trial.planned.seed, trial.planned.axes["data.num_examples"]
        val = items[items["split"] == "val"]
        steps = [val.assign(step=step, value=val["value"] * step / 150) for step in (0, 75, 150)]
        pd.concat(steps).to_parquet(trial.folder / "during.parquet")
        weights = [items.assign(weight=weight, value=items["value"] * (0.5 + weight / 2)) for weight in (0.0, 0.5, 1.0)]
        pd.concat(weights).to_parquet(trial.folder / "interpolation.parquet")
        put_drift(trial.folder, 0.1 * np.log(size) + 0.01 * seed)


def put_drift(folder: Path, value: float) -> None:
    """Add a drift panel to a record."""
    record = json.loads((folder / "result.json").read_text())
    values = {"base_answers/kl_base_tuned": value, "neutral/argmax_loss": 2 * value}
    (folder / "result.json").write_text(json.dumps(record | {"drift": {"values": values, "reasons": {}}}))
    rows = [
        {
            "text_set": "base_answers",
            "item_id": f"row-{item}",
            "position": place,
            "metric": metric,
            "value": value / place,
        }
        for item in range(5)
        for place in range(1, 9)
        for metric in ("kl_base_tuned", "entropy_tuned")
    ]
    pd.DataFrame(rows).astype({"position": "Int32"}).to_parquet(folder / "drift.parquet")


def with_second_axis(store: Store, folder: str) -> None:
    """Make an axis of the warm-up, in which the arms differ."""
    path = store.sweep(folder) / "sweep.json"
    record = SweepRecord.model_validate_json(path.read_text())
    field = "train.warmup_ratio"
    trials = tuple(
        one.model_copy(update={"arm": ARM, "axes": one.axes | {field: one.spec.train.warmup_ratio}})
        for one in record.trials
    )
    changed = record.model_copy(update={"trials": trials, "axis_fields": (*record.axis_fields, field)})
    write_atomic(path, changed.model_dump_json().encode())


WARM = {"short": {"train.warmup_ratio": 0.05}, "long": {"train.warmup_ratio": 0.2}}
ASKED = {"in_plain": {"evals.template": "plain"}, "space": {"evals.template_edit": "space"}}
TEMPLATES = {"axis": "data.template", "values": ("chatml", "alpaca"), "arms": (ARM, *ASKED), "arm_set": ASKED}
SHARES = {
    "axis": "data.replay_share",
    "values": (0.0, 0.01, 0.05, 0.2),
    "arm_set": {ARM: {"data.replay_source": REPLAY}},
}
SIZES = (25, 100, 400)
MAKERS = (
    Maker(
        ("front", "axis", "forest", "forest_slices", "flips", "loss", "size_slices"), {"values": SIZES, "arms": ARMS}
    ),
    Maker(
        ("kl_forgetting", "positions", "during", "interpolation", "aggregate"),
        {"values": SIZES[::2], "seeds": (0, 1, 2, 3, 4)},
        with_panels,
    ),
    Maker(("template_matrix",), TEMPLATES),
    Maker(("packing",), {"axis": "data.packing", "values": ("off", "isolated")}),
    Maker(("known_unknown",), {"axis": "train.num_epochs", "values": (1.0, 3.0, 9.0)}),
    Maker(("replay",), SHARES),
    Maker(("learning_rates",), {"axis": "train.learning_rate", "values": (1e-4, 1e-3, 1e-2)}),
    Maker(
        ("importance", "slices", "parallel"),
        {"values": SIZES, "arms": tuple(WARM), "arm_set": WARM},
        with_second_axis,
    ),
)
MODULES = {module.__name__.rsplit(".", 1)[-1]: module for module in KINDS}


def all_of(root: Path) -> dict[str, list[FigureData]]:
    """Return kind -> its figures, of the sweep below a folder that has them."""
    found: dict[str, list[FigureData]] = {}
    for place, maker in enumerate(MAKERS):
        context = context_of(root / str(place), maker)
        for kind in maker.kinds:
            made = MODULES[kind].points(context)
            assert not isinstance(made, str), (kind, made)
            found[kind] = [one for one in made if isinstance(one, FigureData)]
    return found


def context_of(root: Path, maker: Maker) -> Context:
    """Open a maker's sweep; build it where it is not there yet."""
    store = Store(root)
    if not sweep_folders(store):
        store, folder = build(root, Plan(**(SMALL | maker.plan)))
        if maker.change is not None:
            maker.change(store, folder)
    (folder,) = sweep_folders(store)
    context = Context(open_sweep(store, folder))
    if "known_unknown" in maker.kinds:  # no synthetic slice asks facts that the base does not know
        for side in ("before", "after", "delta"):
            context.frame[f"{side}/people/question_unknown/exact_match"] = context.frame[
                f"{side}/people/question/exact_match"
            ]
    return context


if __name__ == "__main__":
    import sys

    from analysis.figure_kinds import write

    figures = all_of(Path(sys.argv[1]))
    write([one for made in figures.values() for one in made], Path(sys.argv[2]), "acl")
