"""The audit of a data set on a base, without a sweep: what would be trained on, before compute is spent.

Invariant: what is counted and shown are the rows that a trial of the experiment would train on, made by the same
functions. Torch-free at import. What does not live here: the counts (harness/data/audit.py), how verbs print (show.py).
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine import jobs
from harness.engine.plan import check_base
from harness.engine.resolve import Request, resolve_spec
from harness.engine.worker import output_to
from harness.errors import EXIT_BAD_INPUT, EXIT_DONE
from harness.identity import base_key, canonical_json
from harness.records.store import Store, write_atomic
from harness.spec import PocketBase, TrialSpec

if TYPE_CHECKING:
    from rich.text import Text

    from harness.data import Example, PreparedData
    from harness.data.audit import Audit
    from harness.data.hygiene import Overlap
    from harness.models import BaseFiles

NUM_SHOWN = 4
"""Rows shown whole."""
NUM_READ_BY_BASE = 32
"""Rows on which the base's loss is measured."""


@dataclass(frozen=True)
class AuditView:
    """What the audit found."""

    base: str
    spec: TrialSpec
    audit: Audit
    problems: Sequence[str]
    num_near_duplicates: int
    """Rows of the source that are like an earlier one, exact ones included."""
    overlaps: Sequence[Overlap]
    """One for each task that asks something."""
    base_loss: float | None
    """Of the base on the first rows, in nats a loss token; None where none carries loss."""
    shown: Sequence[Text]
    paths: Sequence[Path]

    @property
    def exit_code(self) -> int:
        """Bad input where a trial would not train on these rows."""
        return EXIT_BAD_INPUT if self.problems else EXIT_DONE

    def as_json(self) -> dict[str, Any]:
        """Return everything but the rows, for machines."""
        return {
            "base": self.base,
            "problems": list(self.problems),
            **self.audit.as_json(),
            "num_near_duplicates": self.num_near_duplicates,
            "base_loss": self.base_loss,
            "overlaps": {
                found.suite: {
                    "num_items": found.num_items,
                    "num_checked": found.num_checked,
                    "num_overlapping": len(found.rows_of),
                    "contaminated": found.contaminated,
                }
                for found in self.overlaps
            },
            "paths": [str(path) for path in self.paths],
        }


def audit(request: Request) -> AuditView:
    """Audit the rows that the experiment of a base would train on, and write what was found under OUT/audits.

    Raises:
        BadInputError: base, data or settings that cannot be used.
        DiskError: the output folder cannot be written.
    """
    from harness import data, evals, models
    from harness.data import picture
    from harness.data.audit import audit as counted

    name, spec = resolve_spec(request)
    store = Store(request.out)
    check_base(spec.base, store, name)
    _build_base(spec, store)
    with output_to(store.root / "logs" / "audit.log"):
        files = models.locate(spec.base, store)
        chat = data.chat_format(models.load_tokenizer(files), spec.data)
        kept_out, leaked = evals.kept_out(spec), evals.leaked(spec)
        rows = data.prepare(spec.data, chat, seed=spec.seed, store=store, kept_out=kept_out, leaked=leaked)
        found = counted(rows, spec.train.batch_size)
        near, overlaps = _in_common(spec, store)
        base_loss = _base_loss(files, rows)
    folder = request.out / "audits" / f"{name}-{_hash(spec)}"
    view = AuditView(
        base=name,
        spec=spec,
        audit=found,
        problems=found.problems(spec.data),
        num_near_duplicates=near,
        overlaps=overlaps,
        base_loss=base_loss,
        shown=[picture.as_terminal(chat.tokenizer, row) for row in rows.train[:NUM_SHOWN]],
        paths=(folder / "audit.json", folder / "audit.html"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(view.paths[0], json.dumps(view.as_json(), indent=1).encode())
    write_atomic(view.paths[1], page(view, rows.train[:NUM_SHOWN], chat.tokenizer).encode())
    return view


def _build_base(spec: TrialSpec, store: Store) -> None:
    key = base_key(spec)
    if isinstance(spec.base, PocketBase) and not store.has_artefact("base", key):
        print(f"building the base model {key[:12]}, once", file=sys.stderr, flush=True)
        jobs.build_base(jobs.BaseJob(spec.base, key, store.root, "auto"))


def _hash(spec: TrialSpec) -> str:
    return hashlib.sha256(canonical_json(spec.data).encode()).hexdigest()[:8]


def _in_common(spec: TrialSpec, store: Store) -> tuple[int, list[Overlap]]:
    """Return how many rows of the source repeat another, and what of each task stands in them."""
    from harness import data, evals
    from harness.data import hygiene

    rows = data.read_rows(spec.data.source, store).conversations
    prompts = [hygiene.prompt(row) for row in rows if row.tokens is None]
    asked = evals.asked_texts(spec.evals) if prompts else {}
    overlaps = [hygiene.overlap(key, items, prompts) for key, items in asked.items()]
    return len(hygiene.near_duplicates([hygiene.whole(row) for row in rows])), overlaps


def _base_loss(files: BaseFiles, rows: PreparedData) -> float | None:
    """Return the base's mean loss in nats over the loss tokens of the first rows, weighted as in training."""
    import torch

    from harness import models
    from harness.train import batches, losses

    chosen = rows.train[:NUM_READ_BY_BASE]
    weight = math.fsum(float(row.weight_sums.sum()) for row in chosen)
    if not weight:
        return None
    model = models.load_model(files, "float32", "auto").eval()
    unscaled = [row.weight_sums * 0.0 for row in chosen]
    total = 0.0
    with torch.no_grad():
        for batch in batches.micro_batches(chosen, unscaled, 4, model.device, end_to_end=rows.reads_itself_alone):
            total += losses.objective(model, batch)[1].item()
    return total / weight


# -- the page ---------------------------------------------------------------------------------------------------------


def facts(view: AuditView) -> list[tuple[str, str]]:
    """Return what is said of a set as a whole: a name and a value each."""
    found = view.audit
    dropped = ", ".join(f"{reason}: {count}" for reason, count in sorted(found.num_rows_dropped.items())) or "none"
    packed = "" if found.pack_fill is None else f" in {found.num_rows} rows, {found.pack_fill:.1%} full"
    overlapping = [f"{one.suite} {one.share:.1%}" for one in view.overlaps if one.rows_of]
    num_items = sum(one.num_items for one in view.overlaps)
    num_checked = sum(one.num_checked for one in view.overlaps)
    return [
        ("rows read", f"{found.num_rows_read}"),
        ("rows not used", dropped),
        ("training examples", f"{found.num_examples}{packed}"),
        ("examples a step", f"{found.examples_per_step:.4g}"),
        ("loss tokens a step", f"{found.loss_tokens_per_step:.4g}"),
        ("end of turn, of the loss weight", _percent(found.end_of_turn_share)),
        ("examples cut short", f"{found.num_truncated} ({_percent(found.truncated_share)})"),
        ("ends of turns cut away", f"{found.num_ends_lost} ({_percent(found.ends_lost_share)})"),
        ("examples without loss", f"{found.num_without_loss}"),
        ("completion:prompt ratio", _plain(found.completion_prompt_ratio, "in characters")),
        ("base's loss", _plain(view.base_loss, f"nats a loss token, first {NUM_READ_BY_BASE} rows")),
        ("exact duplicates", f"{found.num_exact_duplicates} of the examples"),
        ("near duplicates", f"{view.num_near_duplicates} of the source's rows"),
        ("evaluation items in the rows", ", ".join(overlapping) or ("none" if num_checked else "unknown")),
        ("evaluation items looked for", f"{num_checked} of {num_items}; the others have too few words"),
        ("template", f"{view.spec.data.template}, sha256 {found.template_sha256[:12]}"),
        ("mask engine", found.mask_engine.replace("_", " ")),
    ]


def parts(view: AuditView) -> list[tuple[str, str, str, str]]:
    """Return a row for each part of a conversation: its name, tokens, loss tokens, share of the loss weight."""
    found = view.audit
    whole = math.fsum(found.loss_weight.values())
    return [
        (
            name.replace("_", " "),
            f"{count}",
            f"{found.loss_tokens.get(name, 0)}",
            _percent(found.loss_weight.get(name, 0.0) / whole if whole else None),
        )
        for name, count in found.tokens.items()
    ]


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _plain(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:.3g} {unit}"


def page(view: AuditView, rows: Sequence[Example], tokenizer: Any) -> str:
    """Return the audit as an HTML page that needs no other file."""
    from harness.data import picture

    problems = "".join(f'<p class="problem">{html.escape(problem)}</p>' for problem in view.problems)
    about = "".join(_table_row((name, value), "th") for name, value in facts(view))
    heads = _table_row(("part", "tokens", "loss tokens", "of the loss weight"), "th", "th")
    counted = "".join(_table_row(row, "th") for row in parts(view))
    shown = "".join(picture.as_html(tokenizer, row) for row in rows)
    title = f"Audit of {html.escape(_source(view.spec))} on {html.escape(view.base)}"
    return _PAGE.format(
        title=title, style=picture.STYLE, problems=problems, facts=about, parts=heads + counted, rows=shown
    )


def _table_row(cells: Sequence[str], first: str, other: str = "td") -> str:
    kinds = [first, *[other] * (len(cells) - 1)]
    inner = "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for kind, cell in zip(kinds, cells, strict=True))
    return f"<tr>{inner}</tr>"


def _source(spec: TrialSpec) -> str:
    source: Mapping[str, Any] = spec.data.source.model_dump()
    return str(source.get("path") or source.get("repo_id") or "the pocket world")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #111; }}
h1 {{ font-size: 1.3rem; overflow-wrap: anywhere; }} h2 {{ font-size: 1.05rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: 2px 1.2rem 2px 0; text-align: left; vertical-align: top; }}
th {{ font-weight: 500; color: #445; }} td {{ font-variant-numeric: tabular-nums; }}
.problem {{ background: #fde8e8; border-left: 4px solid #c00; padding: .5rem .8rem; }}
.row {{ border: 1px solid #dde; border-radius: 4px; padding: .6rem .8rem; margin: .8rem 0; }}{style}
</style></head><body>
<h1>{title}</h1>{problems}
<table>{facts}</table>
<h2>What carries loss</h2><table>{parts}</table>
<h2>Rows</h2><p>Marked is trained on, the stronger the more it weighs; all else is context.</p>{rows}
</body></html>
"""
