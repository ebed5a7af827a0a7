"""What grows with the size of the data, slice by slice: form, skill and facts need not rise together.

Invariant: one line a slice, on a logarithmic axis of examples. What does not live here: fits of the growth (fits.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from matplotlib.figure import Figure

from analysis.context import Context
from analysis.figures import draw_curves
from analysis.points import FigureData, around_score_sentence, as_curves, curve_rows, is_number, population, series_of
from analysis.score_intervals import is_binary

SIZE = "data.num_examples"


def points(context: Context) -> list[FigureData] | str:
    """Return the score of every primary slice along the number of examples, one panel for each arm."""
    if SIZE not in context.record.axis_fields:
        return f"{SIZE} is not varied"
    frame, column = context.frame, f"axis.{SIZE}"
    if not is_number(frame[column]) or frame[column].nunique() < 3:
        return f"{SIZE} has fewer than three sizes"
    keys = dict.fromkeys(key for keys in context.primary_keys.values() for key in keys if is_binary(key))
    others = [f"axis.{name}" for name in context.record.axis_fields if name != SIZE]
    rows = [
        row
        for key in keys
        for row in curve_rows(
            context, key, column, lambda trial: series_of(trial, others, frame), key.rsplit("/", 1)[0]
        )
    ]
    caption = (
        "Score of each primary slice after training by number of training examples (logarithmic); slices in bits per "
        f"byte are not shown. {around_score_sentence(context)} Dots are seeds. {population(frame, context.effects)}"
    )
    return as_curves(context, "size_slices", rows, caption, x="num_examples", y="share of items right")


def draw(data: FigureData, width: float) -> Figure:
    """Draw one panel an arm, one line a slice."""
    return draw_curves(data, width)
