"""What a section of a report is: values that its templates show.

Invariant: a section holds plain values, text raw; its templates escape it. What does not live here: which sections
there are (sections/), what they say.
"""

# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# pandas, scipy, statsmodels and matplotlib have no complete annotations: what strict checking says of them is noise.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from analysis.context import Context


@dataclass(frozen=True)
class Section:
    """One section: templates/sections/<name>.html.jinja and .md.jinja show it as `section`."""

    name: str
    """Of its module and templates, and its anchor in the page."""
    nav: str
    """What the page's navigation calls it."""
    content: Mapping[str, Any]
    """What its templates read."""


class SectionModule(Protocol):
    """A module of sections/."""

    __name__: str

    def compute(self, context: Context) -> Section | str:
        """Return the section, or why there is none."""
        ...

    def files(self, section: Section) -> dict[str, bytes]:
        """Return what is written beside the report: file name -> content."""
        ...


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table's rows as plain values."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
