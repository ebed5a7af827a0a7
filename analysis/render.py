"""A view as HTML, Markdown, LaTeX and terminal text.

Invariant: HTML is escaped by jinja2's autoescape and guarded by a content security policy that allows nothing from
elsewhere and only the script and style whose hashes it names; the page opens from disk. What does not live here: what
is said (view.py).
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import jinja2
import pandas as pd  # pyright: ignore[reportMissingTypeStubs]
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import escape, numbers, verdicts
from analysis.points import FigureData
from analysis.verdicts import Verdict
from analysis.view import Cell, View
from analysis.wins import wins_text

TEMPLATES = Path(__file__).parent / "templates"
GLYPH_WIDTH, GLYPH_HEIGHT = 96, 14


def html(view: View, figures: Sequence[FigureData], folder: Path) -> str:
    """Return the self-contained page.

    Args:
        view: what to say.
        figures: drawn figures, whose PNG files lie in `folder`.
        folder: where they lie.
    """
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js.jinja"))
    drawn = {figure.name: (figure.caption, _data_uri(folder / f"{figure.name}.png")) for figure in figures}
    return (
        _environment("html")
        .get_template("report.html.jinja")
        .render(
            view=view,
            figures=drawn,
            style=style,
            script=script,
            style_hash=_csp_hash(style),
            script_hash=_csp_hash(script),
            scales={measure: _scale(view, measure) for measure in view.measures},
        )
    )


def markdown(view: View, figures: Sequence[FigureData]) -> str:
    """Return the report as Markdown, with figures linked beside it."""
    return _environment("md").get_template("report.md.jinja").render(view=view, figures=figures)


def latex(view: View) -> str:
    """Return the main table as a booktabs table for `\\input`."""
    return _environment("tex").get_template("table.tex.jinja").render(view=view)


def claims_latex(claims: Sequence[Verdict]) -> str:
    """Return verdicts as a booktabs table for `\\input`, one row a part; the trials behind each are comments."""
    return _environment("tex").get_template("claims.tex.jinja").render(claims=claims)


@cache
def _environment(kind: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=kind == "html",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "score": numbers.score,
        "signed": partial(numbers.score, signed=True),
        "quantity": numbers.quantity,
        "memory": numbers.memory,
        "percent": numbers.percent,
        "p_value": numbers.p_value,
        "visible": escape.visible,
        "md": escape.markdown,
        "tex": escape.latex,
        "number_tex": _number_tex,
        "known": _is_known,
        "interval": verdicts.interval,
        "by_world": verdicts.by_world,
        "wins": wins_text,
    }
    environment.filters.update(filters)  # pyright: ignore[reportUnknownMemberType]
    environment.globals.update(interval=numbers.interval, glyph=_glyph, marks=_marks)  # pyright: ignore[reportUnknownMemberType]
    return environment


def _number_tex(text: object) -> str:
    """Return text with numbers as LaTeX typesets it: a minus and an unknown as such."""
    return escape.latex(text).replace(numbers.MINUS, "$-$").replace(numbers.UNKNOWN, "---")


def _is_known(value: object) -> bool:
    return value is not None and value is not pd.NA and not (isinstance(value, float) and math.isnan(value))


_MARKS = {
    "md": {"holm": r"\*"} | numbers.INTERVAL_MARKS,
    "tex": {"holm": "*", "items only": r"\dagger", "seeds only": r"\ddagger", "exact bound": r"\S"},
}


def _marks(cell: Cell, kind: str) -> str:
    """Return the footnote marks of a cell: significant after Holm, and what its interval covers."""
    marks = _MARKS[kind]
    shown = (marks["holm"] if cell.p_holm < 0.05 else "") + marks.get(cell.kind, "")
    return f"^{{{shown}}}" if kind == "tex" and shown else shown


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _scale(view: View, measure: str) -> tuple[float, float]:
    """Return the range of a measure's changes over all conditions, zero included."""
    cells = [row.cells[measure] for rows in view.groups.values() for row in rows]
    ends = [end for cell in cells for end in (cell.low, cell.high, cell.delta) if math.isfinite(end)]
    return min([0.0, *ends]), max([0.0, *ends])


def _glyph(cell: Cell, scale: tuple[float, float]) -> dict[str, float] | None:
    """Return where zero, the interval's ends and the estimate lie in a cell's small drawing; None without a range."""
    low, high = scale
    if high <= low or not math.isfinite(cell.delta):
        return None

    def place(value: float) -> float:
        return round(3 + (GLYPH_WIDTH - 6) * (value - low) / (high - low), 1)

    ends = (cell.low, cell.high) if math.isfinite(cell.low) else (cell.delta, cell.delta)
    return {"zero": place(0), "low": place(ends[0]), "high": place(ends[1]), "delta": place(cell.delta)}


# -- terminal ---------------------------------------------------------------------------------------------------------


def text_table(view: View, width: int = 120) -> str:
    """Return the main table for a terminal: plain text, nothing in it is markup or an escape sequence."""
    table = Table(box=None, pad_edge=False, header_style="")
    for name in (view.axis_name, "seeds"):
        table.add_column(Text(escape.visible(name, single_line=True)), overflow="fold")
    for measure, about in view.measures.items():
        table.add_column(Text(measure + (" ↓" if about["lower_is_better"] else "")), justify="right", no_wrap=True)
    for arm, rows in view.groups.items():
        if len(view.groups) > 1:
            table.add_row(Text(escape.visible(arm, single_line=True)))
        for row in rows:
            label = escape.visible(row.label, single_line=True, limit=60) + ("\nchosen on val" if row.chosen else "")
            seeds = f"{row.num_complete}/{row.num_planned}"
            table.add_row(Text(label), Text(seeds), *(_text_cell(row.cells[measure]) for measure in view.measures))
    console = Console(width=width, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([_text_head(view), "", *lines, "", *_text_claims(view), *_text_notes(view)])


def _text_claims(view: View) -> list[str]:
    lines: list[str] = []
    for claim in view.claims:
        lines.append(f"claim {escape.visible(f'{claim.claim}: {claim.statement}', single_line=True, limit=300)}")
        lines.append(f"  {claim.label.upper()}; published: {escape.visible(claim.published_text, single_line=True)}")
        for part in claim.parts:
            about = f"{part.text}: {verdicts.interval(part)}, MDE {numbers.score(part.mde)}, seeds {part.replicates}"
            lines.append(f"  - {escape.visible(f'{part.label}: {about}', single_line=True, limit=400)}")
        if claim.note:
            lines.append(f"  ! {escape.visible(claim.note, single_line=True, limit=600)}")
    return [*lines, ""] if lines else []


def _text_head(view: View) -> str:
    states = ", ".join(f"{count} {state}" for state, count in view.states.items())
    title = escape.visible(view.title, single_line=True)
    winner = view.facts.get("Winner")
    named = f"\nwinner: {escape.visible(winner, single_line=True, limit=900)}" if winner else ""
    legend = f"before → after, and after {numbers.MINUS} before with its 95 % interval"
    return f"{title}: {states}. {view.seeds}{named}\n{legend}"


def _text_cell(cell: Cell) -> Text:
    if not math.isfinite(cell.delta):
        return Text(numbers.UNKNOWN)
    first = f"{numbers.score(cell.before)} → {numbers.score(cell.after)}"
    change = numbers.score(cell.delta, signed=True)
    return Text(f"{first}\n{change} {numbers.plus_minus(cell.low, cell.high, cell.delta)}")


def _text_notes(view: View) -> list[str]:
    lines = list(view.missing)
    if undrawn := len(view.figures_missing):
        lines.append(
            f"{undrawn} kinds of figures are not drawn, for want of what they show: report.md says which, and why."
        )
    return [f"! {escape.visible(note, single_line=True, limit=300)}" for note in lines]
