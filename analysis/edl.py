"""Description length from the training log: what the training rows taught beyond what their kind teaches.

Invariant: only tokens whose loss was measured before the model had seen their row count; where that cannot be told, or
training and validation losses are of different things, there is no value and a reason. What does not live here: the
log's reading (items.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.opened import OpenedSweep, OpenedTrial
from analysis.replicates import over_replicates, replicate_of
from harness.spec import TrialSpec

NAN = math.nan
COLUMNS = [
    "trial_id", "condition", "arm", "seed", "world", "edl_bits", "edl_bits_per_token", "edl_bits_per_parameter",
    "code_bits", "num_tokens", "epoch_covered", "note",
]  # fmt: skip
LOGGED = ("step", "epoch", "train/loss", "train/num_loss_tokens")


def edl_table(sweep: OpenedSweep, metrics: pd.DataFrame) -> pd.DataFrame:
    """Return one row per planned trial: its excess description length, or why it has none.

    Args:
        sweep: the sweep.
        metrics: its training logs.
    """
    logs = dict(list(metrics.groupby("trial_id"))) if "trial_id" in metrics.columns else {}
    empty = metrics.iloc[:0]
    return pd.DataFrame(
        [_row(trial, logs.get(trial.planned.trial_id, empty)) for trial in sweep.trials], columns=COLUMNS
    )


def _row(trial: OpenedTrial, log: pd.DataFrame) -> dict[str, object]:
    planned = trial.planned
    row: dict[str, object] = {"trial_id": planned.trial_id, "condition": trial.condition, "arm": planned.arm}
    row |= {"seed": planned.seed, "world": planned.world}
    if trial.result is None or trial.result.state == "DIVERGED":
        return row | {"note": f"{trial.state}: {trial.cause}"}
    train = trial.result.train
    reason = why_unknown(planned.spec)
    if reason or train.val_loss is None:
        return row | {"note": reason or "there are no validation rows"}
    found = description_length(log, train.val_loss)
    if isinstance(found, str):
        return row | {"note": found}
    return row | found | {"edl_bits_per_parameter": _ratio(found["edl_bits"], train.trainable_parameters), "note": ""}


def why_unknown(spec: TrialSpec) -> str | None:
    """Return why a recipe's training loss is no code length that its validation loss can be taken from, or None."""
    data = spec.data
    if data.prompt_loss_weight not in (0.0, 1.0):
        return f"data.prompt_loss_weight is {data.prompt_loss_weight!r}: a weighted loss is no code length"
    if getattr(spec.method, "dropout", 0.0) > 0:
        return "training losses are measured under dropout"
    if data.packing == "joined":
        return "data.packing is 'joined': training rows read others before them, validation rows do not"
    mixed = ("replay_share", "mixture", "duplicate_share", "noise_share", "style_share", "leak_share")
    changed = [name for name in mixed if getattr(data, name)]
    if changed:
        return f"data.{changed[0]} is {getattr(data, changed[0])!r}: validation rows are not drawn as training rows are"
    return None


def description_length(log: pd.DataFrame, val_loss: float) -> dict[str, float] | str:
    """Return a trial's excess description length, or why it has none.

    code = sum over steps of the first epoch of train/loss x train/num_loss_tokens / ln 2, losses before the step's
    update; EDL = code - tokens x val_loss / ln 2, in bits. A step that straddles the end of the epoch holds rows that
    were seen before and is left out, so that EDL is exact for the rows of the whole steps; `epoch_covered` is their
    share of the epoch. More is more learned from the rows themselves; 0 where they taught nothing.

    Args:
        log: rows of `metrics.jsonl` of the trial.
        val_loss: mean loss per loss token on unseen rows at the weights kept, in nats.

    Source: the prequential code of Blier and Ollivier, arXiv:1802.07044, less what a trained model still pays.
    """
    if not set(LOGGED) <= set(log.columns):
        return f"the log lacks {', '.join(name for name in LOGGED if name not in log.columns)}"
    steps = log[log["train/num_loss_tokens"].notna()].sort_values("step")
    if not len(steps) or steps["step"].tolist() != list(range(1, len(steps) + 1)):
        return "the log lacks steps"
    if steps["epoch"].max() < 1 - 1e-9:
        return f"{steps['epoch'].max():.2f} epochs were trained: the first is not whole"
    first = steps[steps["epoch"] <= 1 + 1e-9]
    tokens = first["train/num_loss_tokens"].to_numpy(dtype=float)
    if not tokens.sum():
        return "no whole step of the first epoch carries loss"
    losses = np.where(tokens > 0, first["train/loss"].to_numpy(dtype=float), 0.0)
    code = float((losses * tokens).sum()) / math.log(2)
    edl = code - float(tokens.sum()) * val_loss / math.log(2)
    return {
        "edl_bits": edl,
        "edl_bits_per_token": edl / float(tokens.sum()),
        "code_bits": code,
        "num_tokens": float(tokens.sum()),
        "epoch_covered": float(first["epoch"].max()),
    }


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else NAN


def edl_by_condition(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per condition: means over replicates with t intervals of EDL in bits, per token and parameter."""
    rows = [
        {"condition": condition, "arm": arm} | _summary(group)
        for (condition, arm), group in table.groupby(["condition", "arm"], sort=False)
    ]
    names = ("edl_bits", "edl_bits_per_token", "edl_bits_per_parameter")
    ends = [name + end for name in names for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["condition", "arm", *ends, "epoch_covered", "num_replicates", "note"])


def _summary(group: pd.DataFrame) -> dict[str, object]:
    names = [replicate_of(world, seed) for world, seed in zip(group["world"], group["seed"], strict=True)]
    row: dict[str, object] = {"num_replicates": int(group["edl_bits"].notna().sum())}
    for name in ("edl_bits", "edl_bits_per_token", "edl_bits_per_parameter"):
        effect = over_replicates(dict(zip(names, group[name].astype(float), strict=True)))
        row |= {name: effect.estimate, f"{name}_low": effect.low, f"{name}_high": effect.high}
    reasons = [note for note in dict.fromkeys(group["note"]) if note]
    return row | {"epoch_covered": group["epoch_covered"].astype(float).min(), "note": "; ".join(reasons)}
