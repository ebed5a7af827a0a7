"""Facts that the base knew and facts that it did not, over epochs: unknown ones are fitted late.

Invariant: a slice is of unknown facts where its task says `unknown` by name, and only slices with the same metric are
compared. What does not live here: deciding which facts a base knows (knowledge.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import draw_curves
from analysis.points import FigureData, around_score_sentence, as_curves, curve_rows, population, series_of

EPOCHS = "train.num_epochs"


def points(context: Context) -> list[FigureData] | str:
    """Return accuracy on known and unknown facts by number of epochs, one panel for each arm."""
    if EPOCHS not in context.record.axis_fields:
        return f"{EPOCHS} is not varied"
    frame = context.frame
    keys = _keys(context)
    if not any(_is_unknown(key) for key in keys):
        return "no slice asks facts that the base does not know"
    others = [f"axis.{name}" for name in context.record.axis_fields if name != EPOCHS]
    rows = [
        row
        for key in keys
        for row in curve_rows(context, key, f"axis.{EPOCHS}", lambda trial: series_of(trial, others, frame), _name(key))
    ]
    caption = (
        "Share of items right after training by epochs, for facts that the base knows and facts that it does not; "
        "every number of epochs is a run of its own, dots are seeds. "
        f"{around_score_sentence(context)} {population(frame, context.effects)}"
    )
    return as_curves(context, "known_unknown", rows, caption, x="num_epochs", y="share of items right")


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel an arm, one line a slice."""
    return draw_curves(data, width)


def _keys(context: Context) -> list[str]:
    scored = [name.removeprefix("after/") for name in context.frame.columns if name.startswith("after/")]
    unknown = [key for key in scored if key.count("/") == 2 and _is_unknown(key)]
    metrics = {key.rsplit("/", 1)[1] for key in unknown} & {"exact_match", "acc"}
    known = [key for key in context.primary_keys.get("learned", ()) if not _is_unknown(key)]
    return [key for key in dict.fromkeys([*known, *unknown]) if key.rsplit("/", 1)[1] in metrics]


def _is_unknown(key: str) -> bool:
    return "unknown" in key.split("/")[1]


def _name(key: str) -> str:
    return ("unknown: " if _is_unknown(key) else "known: ") + key.split("/")[1]
