"""The scores of a base, measured once and shared by every trial with the same key.

    artefacts/before/<key>/scores.json    the aggregates, beside items.parquet and questions.parquet

Invariant: scores are used only where every file of their folder is as its manifest says and they name the key that was
asked for; anything else is set aside and measured again. What does not live here: measuring them, and what the key is
made of (harness/evals/scoring.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.errors import StoreError
from harness.records.schema import EvalScores
from harness.records.seal import sealed
from harness.records.store import Store, write_atomic

SCORES_FILE = "scores.json"


def write(folder: Path, scores: EvalScores) -> None:
    """Write the scores into the folder that they are measured into.

    Raises:
        DiskError: the disk is full or read-only.
    """
    write_atomic(folder / SCORES_FILE, sealed(scores))


def ensure(store: Store, key: str, measure: Callable[[Path], None]) -> EvalScores:
    """Return the scores under a key, measured into a folder first where they are missing, damaged or of another key.

    Raises:
        DiskError: the disk is full or read-only.
    """
    return read(
        store, key, store.ensure_artefact("before", key, measure, check=lambda found: _check(store, key, found))
    )


def read(store: Store, key: str, folder: Path) -> EvalScores:
    """Return the scores in a folder.

    Raises:
        StoreError: there are none, they are damaged, or of another base, template or evaluation than the key.
    """
    scores = store.read(folder / SCORES_FILE, EvalScores)
    if scores is None:
        raise StoreError(f"{folder / SCORES_FILE} is missing though the folder is complete")
    if scores.key != key:
        raise StoreError(f"{folder / SCORES_FILE} is damaged: it holds the scores of key {scores.key[:12]}")
    return scores


def _check(store: Store, key: str, folder: Path) -> None:
    read(store, key, folder)
