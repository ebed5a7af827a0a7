"""The audit of a data set on a base, without a sweep: what would be trained on, before compute is spent.

Invariant: what is counted and shown are the rows that a trial of the experiment would train on, by the functions that
run before every trial. Torch-free at import. What does not live here: the counts (harness/data/audit.py), the files
(harness/train/gate.py), how verbs print (show.py).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine import jobs
from harness.engine.plan import check_base
from harness.engine.resolve import Request, resolve_spec
from harness.engine.worker import output_to
from harness.errors import EXIT_BAD_INPUT, EXIT_DONE
from harness.identity import base_key, canonical_json
from harness.records import usable
from harness.records.schema import AUDIT_FILES
from harness.records.store import Store
from harness.spec import PocketBase, TrialSpec

if TYPE_CHECKING:
    from rich.text import Text

    from harness.data import Audit

NUM_SHOWN = 4
"""Rows shown whole."""


@dataclass(frozen=True)
class AuditView:
    """What the audit found."""

    base: str
    spec: TrialSpec
    audit: Audit
    problems: Sequence[str]
    shown: Sequence[Text]
    paths: Sequence[Path]

    @property
    def exit_code(self) -> int:
        """Bad input where a trial would not train on these rows."""
        return EXIT_BAD_INPUT if self.problems else EXIT_DONE

    def as_json(self) -> dict[str, Any]:
        """Return everything but the rows, for machines."""
        written = {"problems": list(self.problems), "paths": [str(path) for path in self.paths]}
        return {"base": self.base} | written | self.audit.as_json()


def audit(request: Request) -> AuditView:
    """Audit the rows that the experiment of a base would train on, and write what was found under OUT/audits.

    Raises:
        BadInputError: base, data or settings that cannot be used.
        DiskError: the output folder cannot be written.
    """
    name, spec = resolve_spec(request)
    store = Store(request.out)
    check_base(spec.base, store, name)
    usable.check(store.root)
    # Late: whoever asks amiss is told before they load.
    from harness import data, evals, models, train
    from harness.data import picture

    _build_base(spec, store)
    folder = request.out / "audits" / f"{name}-{_hash(spec)}"
    with output_to(store.root / "logs" / "audit.log"):
        files = models.locate(spec.base, store)
        chat = data.chat_format(models.load_tokenizer(files), spec.data)
        kept_out, leaked = evals.kept_out(spec), evals.leaked(spec)
        rows = data.prepare(spec.data, chat, seed=spec.seed, store=store, kept_out=kept_out, leaked=leaked)
        model = models.load_model(files, "float32", "auto")
        models.add_rows(model, chat.tokenizer, chat.added)
        folder.mkdir(parents=True, exist_ok=True)
        asked, splits = evals.asked_texts(spec.evals), evals.overlaps_of(spec.evals)
        found = train.audited(model, rows, chat, spec, asked=asked, folder=folder, splits=splits)
    return AuditView(
        base=name,
        spec=spec,
        audit=found,
        problems=found.problems(spec.data),
        shown=[picture.as_terminal(chat.tokenizer, row) for row in rows.train[:NUM_SHOWN]],
        paths=[folder / file for file in AUDIT_FILES],
    )


def _build_base(spec: TrialSpec, store: Store) -> None:
    key = base_key(spec)
    if isinstance(spec.base, PocketBase) and not store.has_artefact("base", key):
        print(f"building the base model {key[:12]}, once", file=sys.stderr, flush=True)
        jobs.build_base(jobs.BaseJob(spec.base, key, store.root, "auto"))


def _hash(spec: TrialSpec) -> str:
    """Return what tells audits of a base apart: all of a recipe that moves a count of one."""
    asked = [spec.data, spec.evals, spec.seed, spec.train.batch_size]
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()[:8]
