"""The sections of a report that are a module each, in the order in which the page and the text show them.

Invariant: a section is one module here, one line in `SECTIONS` and two templates of its name. `compute` returns the
section or the reason why there is none; `files` returns what is written beside the report.
"""

from __future__ import annotations

from analysis.context import Context
from analysis.section import Section, SectionModule
from analysis.sections import (
    aggregate,
    answers,
    audit,
    behaviour,
    confirmation,
    drift,
    edl,
    exploration,
    extremes,
    failures,
    flip_examples,
    forgetting,
    formats,
    held,
    knowledge,
    optima,
    pass_at_k,
    provenance,
    recovery,
    samples,
    search,
    seed_spread,
    tax,
    tradeoff,
    trials,
)

SECTIONS: tuple[SectionModule, ...] = (
    optima,
    extremes,
    tradeoff,
    tax,
    aggregate,
    forgetting,
    knowledge,
    flip_examples,
    behaviour,
    pass_at_k,
    answers,
    formats,
    drift,
    edl,
    recovery,
    exploration,
    confirmation,
    search,
    seed_spread,
    held,
    audit,
    samples,
    failures,
    trials,
    provenance,
)


def all_sections(context: Context) -> tuple[list[Section], dict[str, str]]:
    """Return every section that the sweep has data for, and name -> why for those that it has not."""
    made: list[Section] = []
    missing: dict[str, str] = {}
    for module in SECTIONS:
        found = context.once(module.compute)
        if isinstance(found, str):
            missing[module.__name__.rsplit(".", 1)[-1]] = found
        else:
            made.append(found)
    return made, missing


def section_files(sections: list[Section]) -> dict[str, bytes]:
    """Return the files of these sections: name -> content."""
    modules = {module.__name__.rsplit(".", 1)[-1]: module for module in SECTIONS}
    return {name: content for one in sections for name, content in modules[one.name].files(one).items()}
