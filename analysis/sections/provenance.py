"""What the trials ran on, and the command that reproduces them.

Invariant: each column's distinct values, so that a mixture shows. What does not live here: the warning about a mixture
(view.py).
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

import json

import pandas as pd

from analysis import tables
from analysis.context import Context
from analysis.section import Section

RESOLVED = ("weights_sha256", "tokenizer_sha256", "template_sha256", "quantisation")


def compute(context: Context) -> Section:
    """Return what the trials ran on: each column's distinct values."""
    return Section("provenance", "Provenance", {"columns": _columns(context.frame), "command": context.record.command})


def files(section: Section) -> dict[str, bytes]:
    """Return none: trials.csv has these columns."""
    return {}


def _columns(frame: pd.DataFrame) -> dict[str, list[str]]:
    columns = (*tables.SAME_EXPECTED, *RESOLVED)
    found = {name: sorted({str(value) for value in frame[name].dropna()}) for name in columns}
    libraries = [_library_text(text) for text in found.pop("libraries")]
    return {name: values for name, values in (found | {"libraries": libraries}).items() if values}


def _library_text(text: str) -> str:
    return ", ".join(f"{name} {version}" for name, version in json.loads(text).items())
