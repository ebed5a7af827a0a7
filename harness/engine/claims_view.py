"""All verdicts of an output folder in one table.

Invariant: a row is what the records of its sweep say now, and carries the command that makes it; nothing is written. A
claim that was not run, or whose sweep goes on, says so and shows no number. What does not live here: deciding a claim
(analysis/claims.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis import escape, numbers, report, verdicts
from analysis.opened import sweep_folders
from analysis.verdicts import Verdict
from harness.engine import claims_run, plan
from harness.engine.resolve import Request
from harness.errors import BadInputError, unknown_name
from harness.records.schema import SweepRecord
from harness.records.store import Store
from harness.spec import Claim

BASE = "pocket"
"""Where the claims that ship are decided."""
HEAD = (
    *("claim", "statement", "verdict", "estimate, 95 % interval", "seeds x worlds", "items", "MDE", "published"),
    "command",
)


@dataclass(frozen=True)
class ClaimRow:
    """One claim and what became of it."""

    claim: Claim
    sweep: str
    """The sweep's folder, or its name where it was not run."""
    command: str
    verdict: Verdict | None
    """None where the sweep was not run."""

    @property
    def label(self) -> str:
        """The verdict in words; `open` while trials have no result."""
        if self.verdict is None:
            return "not run"
        if self.verdict.num_open:
            done = self.verdict.num_trials - self.verdict.num_open
            return f"open, {done} of {self.verdict.num_trials} trials"
        return self.verdict.label

    @property
    def note(self) -> str:
        """What a reader must not overlook."""
        return "" if (verdict := self.decided) is None else verdict.note

    @property
    def decided(self) -> Verdict | None:
        """The verdict, once no trial is open."""
        return None if self.verdict is None or self.verdict.num_open else self.verdict

    @property
    def estimates(self) -> list[str]:
        """Each part's estimate with its interval."""
        return [verdicts.interval(part) for part in self._parts()]

    @property
    def replicates(self) -> list[str]:
        """Each part's seeds x worlds."""
        return [part.replicates for part in self._parts()]

    @property
    def items(self) -> list[str]:
        """Each part's items over all worlds; a dash where it has none."""
        return [str(part.num_items or numbers.UNKNOWN) for part in self._parts()]

    @property
    def detectable(self) -> list[str]:
        """Each part's minimum detectable effect."""
        return [numbers.score(part.mde) for part in self._parts()]

    @property
    def published(self) -> str:
        """What was published, and where its value lies from ours once that is decided."""
        verdict = self.decided
        return self.claim.published if verdict is None else verdict.published_text

    def _parts(self) -> tuple[verdicts.PartVerdict, ...]:
        return () if (verdict := self.decided) is None else verdict.parts

    def as_json(self) -> dict[str, Any]:
        """Return what a machine wants to know."""
        return {
            "claim": self.claim.id,
            "statement": self.claim.statement,
            "source": self.claim.source,
            "published": self.claim.published,
            "published_value": self.claim.published_value,
            "published_place": decided.published_place if (decided := self.decided) else "",
            "sweep": self.sweep,
            "command": self.command,
            "verdict": self.label,
            "note": self.note,
            "parts": [
                asdict(part) | {"label": part.label, "items_fixed": part.has_items_fixed} for part in self._parts()
            ],
        }


@dataclass(frozen=True)
class ClaimsView:
    """What `claims` shows."""

    rows: tuple[ClaimRow, ...]
    running: str | None
    """Where a claims-run is; None when none runs."""

    def as_json(self) -> dict[str, Any]:
        """Return what a machine wants to know."""
        return {"running": self.running, "claims": [row.as_json() for row in self.rows]}

    def pasted(self, form: str) -> str:
        """Return the table as text to paste, `markdown` or `latex`.

        Raises:
            BadInputError: the form is neither.
        """
        forms = {"markdown": self.markdown, "latex": self.latex}
        if form not in forms:
            raise BadInputError(unknown_name("FORMAT", form, tuple(forms)))
        return forms[form]()

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        for row in self.rows:
            verdict = row.label + (f" ({row.note})" if row.note else "")
            cells = (row.claim.id, row.claim.statement, verdict, "; ".join(row.estimates), _distinct(row.replicates))
            cells += (_distinct(row.items), "; ".join(row.detectable), f"{row.published} ({row.claim.source})")
            text = " | ".join(escape.markdown(cell) for cell in cells)
            lines.append(f"| {text} | `{row.command.replace('`', '').replace('|', '')}` |")
        return "\n".join(lines)

    def latex(self) -> str:
        """Return the claims that are decided as one booktabs table, the others as comments below it."""
        from analysis import render

        table = render.claims_latex([verdict for row in self.rows if (verdict := row.decided) is not None])
        others = [f"% {escape.latex(f'{row.claim.id}: {row.label}')}\n" for row in self.rows if row.decided is None]
        return table + "".join(others)


def _distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def collect(out: Path) -> ClaimsView:
    """Return every claim of every launched sweep, and those that ship and were not run, by id.

    A sweep with overrides is left out where the same sweep ran on the same base without any.

    Raises:
        StoreError: a plan is damaged.
    """
    launched = list(_launched(Store(out)))
    plain = {(record.name, record.base) for _, record in launched if record.set_hash is None}
    shown = [pair for pair in launched if pair[1].set_hash is None or (pair[1].name, pair[1].base) not in plain]
    rows = [row for folder, record in shown for row in _rows(out, folder, record)]
    rows += _not_run({record.name for _, record in launched}, out)
    where = claims_run.running(out)
    text = None if where is None else f"sweep {where.phase} ({where.step} of {where.num_steps}), process {where.pid}"
    return ClaimsView(tuple(sorted(rows, key=lambda row: (_natural(row.claim.id), row.sweep))), text)


def _launched(store: Store) -> Iterator[tuple[str, SweepRecord]]:
    for folder in sweep_folders(store):
        record = store.read(store.sweep(folder) / "sweep.json", SweepRecord)
        if record is not None and record.claims:
            yield folder, record


def _rows(out: Path, folder: str, record: SweepRecord) -> Iterator[ClaimRow]:
    decided = report.read_verdicts(out, folder)
    for claim, verdict in zip(record.claims, decided, strict=True):
        yield ClaimRow(claim, folder, record.command, verdict)


def _not_run(names: Iterable[str], out: Path) -> Iterator[ClaimRow]:
    known = set(names)
    for sweep in claims_run.claim_sweeps():
        if sweep.name not in known:
            command = plan.command_of(Request(name=sweep.name, base=BASE, out=out), "sweep")
            yield from (ClaimRow(claim, sweep.name, command, None) for claim in sweep.claims)


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a sorting key by which B4 comes before B15."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
