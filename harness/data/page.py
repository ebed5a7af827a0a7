"""An audit for a reader: names and values, and a page that needs no other file.

Invariant: unknown is said to be unknown, and nothing that rows hold is taken for markup. What does not live here: the
counts (audit.py), how a row is coloured (picture.py).
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.data import picture, splits
from harness.data.audit import Audit
from harness.data.example import Example
from harness.data.ledger import named
from harness.spec import DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MOST_NATS = 100.0
"""Of which the perplexity is a number to read."""
MOST_NAMED = 8
"""Names of a kind that are shown."""


def facts(found: Audit, template: str) -> list[tuple[str, str]]:
    """Return what is said of a set as a whole: a name and a value each.

    Args:
        found: the audit.
        template: the name of the chat template.
    """
    packed = "" if found.pack_fill is None else f" in {found.num_rows} rows, {found.pack_fill:.1%} full"
    overlapping = [f"{key} {_percent(one.share)}" for key, one in found.overlaps.items() if one.num_overlapping]
    num_items = sum(one.num_items for one in found.overlaps.values())
    num_checked = sum(one.num_checked for one in found.overlaps.values())
    in_val = [f"{key} {_percent(one.worst)}" for key, one in found.split_overlaps.items() if one.worst]
    near = "unknown" if found.num_near_duplicates is None else f"{found.num_near_duplicates}"
    return [
        ("rows read", f"{found.num_rows_read}"),
        ("rows not used", _counts(found.num_rows_dropped)),
        ("training examples", f"{found.num_examples}{packed}"),
        ("examples a step", f"{found.examples_per_step:.4g}"),
        ("loss tokens a step", f"{found.loss_tokens_per_step:.4g}"),
        ("end of turn, of the loss weight", _percent(found.end_of_turn_share)),
        ("examples cut short", f"{found.num_truncated} ({_percent(found.truncated_share)})"),
        ("ends of turns cut away", f"{found.num_ends_lost} ({_percent(found.ends_lost_share)})"),
        ("examples without loss", f"{found.num_without_loss}"),
        ("rows from elsewhere", _counts(found.num_part_rows)),
        ("rows changed on purpose", _counts(found.num_marked)),
        ("personal data replaced", _counts(found.num_scrubbed)),
        ("rows that spell a control token", f"{found.num_control_text}"),
        ("answers that the template rewrites", f"{found.num_rewritten}"),
        ("tasks", _counts(found.domains)),
        ("languages", "unknown" if found.languages is None else _counts(found.languages)),
        ("completion:prompt ratio", _plain(found.completion_prompt_ratio, "in characters")),
        ("base's loss", _loss(found.base_loss)),
        ("exact duplicates", f"{found.num_exact_duplicates} of the examples"),
        ("near duplicates", f"{near} of the rows trained on, beside all of their source"),
        ("evaluation items in the rows", ", ".join(overlapping) or ("none" if num_checked else "unknown")),
        ("evaluation items looked for", f"{num_checked} of {num_items}; the others have too few words"),
        ("test items in val items", _first(in_val) or ("none" if found.split_overlaps else "unknown")),
        ("template", f"{template}, sha256 {found.template_sha256[:12]}"),
        ("mask engine", found.mask_engine.replace("_", " ")),
    ]


def parts(found: Audit) -> list[tuple[str, str, str, str]]:
    """Return a row for each part of a conversation: its name, tokens, loss tokens, share of the loss weight."""
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


def warnings(found: Audit) -> list[str]:
    """Return a sentence for each thing to look at: of the rows, and of what they are evaluated on."""
    of_splits = splits.warning(found.split_overlaps)
    return [*found.warnings, *([of_splits] if of_splits else [])]


def _counts(found: Mapping[str, int]) -> str:
    """Return counts by name, the first ones of many."""
    return _first([f"{name.replace('_', ' ')}: {count}" for name, count in found.items()]) or "none"


def _first(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - MOST_NAMED} more"] if len(texts) > MOST_NAMED else []
    return ", ".join([*texts[:MOST_NAMED], *more])


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


def _loss(nats: float | None) -> str:
    if nats is None:
        return "unknown"
    perplexity = f", perplexity {math.exp(nats):.3g}" if nats < MOST_NATS else ""
    return f"{nats:.3g} nats a loss token of the first rows{perplexity}"


def _plain(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:.3g} {unit}"


def audit_page(found: Audit, spec: DataSpec, rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return an audit as an HTML page that needs no other file.

    Args:
        found: the audit.
        spec: what was asked for.
        rows: those that are shown whole.
        tokenizer: decodes them.
    """
    problems = "".join(f'<p class="problem">{html.escape(problem)}</p>' for problem in found.problems(spec))
    problems += "".join(f'<p class="warning">{html.escape(warning)}</p>' for warning in warnings(found))
    about = "".join(_table_row((name, value), "th") for name, value in facts(found, spec.template))
    heads = _table_row(("part", "tokens", "loss tokens", "of the loss weight"), "th", "th")
    counted = "".join(_table_row(row, "th") for row in parts(found))
    shown = "".join(picture.as_html(tokenizer, row) for row in rows)
    title = f"Audit of {html.escape(named(spec.source)[0])}"
    return _PAGE.format(
        title=title, style=picture.STYLE, problems=problems, facts=about, parts=heads + counted, rows=shown
    )


def _table_row(cells: Sequence[str], first: str, other: str = "td") -> str:
    kinds = [first, *[other] * (len(cells) - 1)]
    inner = "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for kind, cell in zip(kinds, cells, strict=True))
    return f"<tr>{inner}</tr>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #111; }}
h1 {{ font-size: 1.3rem; overflow-wrap: anywhere; }} h2 {{ font-size: 1.05rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: 2px 1.2rem 2px 0; text-align: left; vertical-align: top; }}
th {{ font-weight: 500; color: #445; }} td {{ font-variant-numeric: tabular-nums; }}
.problem {{ background: #fde8e8; border-left: 4px solid #c00; padding: .5rem .8rem; }}
.warning {{ background: #fdf6e3; border-left: 4px solid #b58900; padding: .5rem .8rem; }}
.row {{ border: 1px solid #dde; border-radius: 4px; padding: .6rem .8rem; margin: .8rem 0; }}{style}
</style></head><body>
<h1>{title}</h1>{problems}
<table>{facts}</table>
<h2>What carries loss</h2><table>{parts}</table>
<h2>Rows</h2><p>Marked is trained on, the stronger the more it weighs; all else is context.</p>{rows}
</body></html>
"""
