"""Frames as bytes: CSV that no spreadsheet executes, and Parquet.

Invariant: the same frame gives the same bytes. What does not live here: where they are written (report.py, figures.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import io

import pandas as pd

from analysis.escape import guard_cell


def csv(frame: pd.DataFrame) -> bytes:
    """Return a frame as CSV whose text cells no spreadsheet takes for a formula: those get a leading apostrophe."""
    guarded = frame.copy()
    for column in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_bool_dtype(frame[column]):
            guarded[column] = frame[column].map(guard_cell, na_action="ignore")
    return guarded.rename(columns=guard_cell).to_csv(index=False).encode()


def parquet(frame: pd.DataFrame) -> bytes:
    """Return a frame as Parquet."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()
