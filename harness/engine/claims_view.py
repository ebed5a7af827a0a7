"""All verdicts of an output folder in one table.

Invariant: a row is what the records of its sweep say now, and carries the command that makes it; nothing is written. A
claim that was not run, or whose sweep goes on or has a damaged record, says so and shows no number; a damaged record
hides no other sweep's claims. What does not live here: deciding a claim (analysis/claims.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis import escape, numbers, report, verdicts
from analysis.opened import sweep_folders
from analysis.verdicts import Verdict
from harness.engine import claims_run, plan
from harness.engine.resolve import Request
from harness.errors import EXIT_DONE, EXIT_SOME_FAILED, BadInputError, StoreError, unknown_name
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
    """None where the sweep was not run, or its record is damaged."""
    is_damaged: bool = False

    @property
    def label(self) -> str:
        """The verdict in words; `open` while trials have no result."""
        if self.verdict is None:
            return "damaged record" if self.is_damaged else "not run"
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
    damaged: tuple[str, ...] = ()
    """A sentence for each sweep whose record is damaged."""

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return EXIT_SOME_FAILED if self.damaged else EXIT_DONE

    def as_json(self) -> dict[str, Any]:
        """Return what a machine wants to know."""
        rows = [row.as_json() for row in self.rows]
        return {"running": self.running, "damaged": list(self.damaged), "claims": rows}

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

    A sweep with overrides is left out where the same sweep ran on the same base without any. A sweep whose record is
    damaged is one sentence of `damaged`; the claims that ship with it are shown without a verdict.
    """
    launched, damaged = _launched(Store(out))
    plain = {(record.name, record.base) for _, record in launched if record.set_hash is None}
    shown = [pair for pair in launched if pair[1].set_hash is None or (pair[1].name, pair[1].base) not in plain]
    rows: list[ClaimRow] = []
    for folder, record in shown:
        try:
            rows += _rows(folder, record, report.read_verdicts(out, folder))
        except StoreError as error:
            damaged[folder] = str(error)
            rows += [ClaimRow(claim, folder, record.command, None, is_damaged=True) for claim in record.claims]
    rows += _without_verdict({record.name for _, record in launched}, damaged, out)
    where = claims_run.running(out)
    text = None if where is None else f"sweep {where.phase} ({where.step} of {where.num_steps}), process {where.pid}"
    ordered = sorted(rows, key=lambda row: (_natural(row.claim.id), row.sweep))
    return ClaimsView(tuple(ordered), text, tuple(damaged.values()))


def _launched(store: Store) -> tuple[list[tuple[str, SweepRecord]], dict[str, str]]:
    """Return the sweeps with claims, and folder -> what is wrong for those whose plan cannot be read."""
    launched: list[tuple[str, SweepRecord]] = []
    damaged: dict[str, str] = {}
    for folder in sweep_folders(store):
        try:
            record = store.read(store.sweep(folder) / "sweep.json", SweepRecord)
        except StoreError as error:
            damaged[folder] = f"{error}; run this sweep again, which writes it anew"
            continue
        if record is not None and record.claims:
            launched.append((folder, record))
    return launched, damaged


def _rows(folder: str, record: SweepRecord, decided: Sequence[Verdict]) -> list[ClaimRow]:
    pairs = zip(record.claims, decided, strict=True)
    return [ClaimRow(claim, folder, record.command, verdict) for claim, verdict in pairs]


def _without_verdict(launched: set[str], damaged: Iterable[str], out: Path) -> Iterator[ClaimRow]:
    """Yield the claims that ship of sweeps that were not run, or of which no record can be read."""
    broken = {folder.partition("@")[0] for folder in damaged}
    for sweep in claims_run.claim_sweeps():
        if sweep.name not in launched:
            command = plan.command_of(Request(name=sweep.name, base=BASE, out=out), "sweep")
            is_damaged = sweep.name in broken
            yield from (ClaimRow(claim, sweep.name, command, None, is_damaged) for claim in sweep.claims)


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a sorting key by which B4 comes before B15."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
