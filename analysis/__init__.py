"""From records to frames, statistics, tables, figures and reports. Reads records only; free of torch.

from analysis import load_sweep
frame = load_sweep("lima_size", base="pocket")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.choices import load_choices
    from analysis.drift import load_drift
    from analysis.frames import (
        load_items,
        load_metrics,
        load_questions,
        load_rows,
        load_samples,
        load_sweep,
        why_missing,
    )
    from analysis.probed import load_during, load_interpolation
    from analysis.report import last_report, write_figures, write_report
    from analysis.sampled import load_sampled

_HOMES = {
    "load_choices": "analysis.choices",
    "load_drift": "analysis.drift",
    "load_during": "analysis.probed",
    "load_interpolation": "analysis.probed",
    "load_items": "analysis.frames",
    "load_metrics": "analysis.frames",
    "load_questions": "analysis.frames",
    "load_rows": "analysis.frames",
    "load_sampled": "analysis.sampled",
    "load_samples": "analysis.frames",
    "load_sweep": "analysis.frames",
    "why_missing": "analysis.frames",
    "last_report": "analysis.report",
    "write_figures": "analysis.report",
    "write_report": "analysis.report",
}
__all__ = [
    "last_report",
    "load_choices",
    "load_drift",
    "load_during",
    "load_interpolation",
    "load_items",
    "load_metrics",
    "load_questions",
    "load_rows",
    "load_sampled",
    "load_samples",
    "load_sweep",
    "why_missing",
    "write_figures",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Importing pandas and statsmodels takes a second; a plan or an unchanged report needs neither.
    if name not in _HOMES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
