"""Making text harmless where it is shown: model output is hostile until proven otherwise.

Invariant: nothing that a model, a data file or an error message says can execute, style or hide anything in HTML,
Markdown, LaTeX, a spreadsheet or a terminal. HTML itself is escaped by the template engine. What does not live here:
redaction of secrets (harness/tracking/redact.py).
"""

from __future__ import annotations

import re
import unicodedata

LIMIT = 1500
"""Characters of one text shown in a report; the whole text is in samples.parquet."""

_FORMULA = re.compile(r"^\s*[=+\-@\t\r]")
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~]|^[+\-=])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
}


def visible(text: str, *, limit: int = LIMIT, single_line: bool = False) -> str:
    """Return text with control characters made visible and its length bounded.

    Escape sequences, NUL and bidirectional overrides become symbols, so that a terminal, a page or a plot shows them
    instead of obeying them.
    """
    shown = "".join(_visible_character(letter, single_line) for letter in text[:limit])
    return shown if len(text) <= limit else f"{shown}… ({len(text) - limit} more characters)"


def _visible_character(letter: str, single_line: bool) -> str:
    if letter == "\n":
        return "⏎ " if single_line else letter
    if letter == "\t":
        return " " if single_line else letter
    code = ord(letter)
    if code < 0x20:
        return chr(0x2400 + code)
    category = unicodedata.category(letter)
    if code == 0x7F:
        return "\u2421"
    # Cc controls, Cf formatting (bidi overrides, zero width), Cs lone surrogates, Zl and Zp line separators.
    return "\ufffd" if category in ("Cc", "Cf", "Cs", "Zl", "Zp") else letter


def markdown(text: object, *, limit: int = LIMIT) -> str:
    """Return text that Markdown shows as it is, in one line and one table cell."""
    line = visible(str(text), limit=limit, single_line=True)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", line).replace("://", ":\u200b//")


def latex(text: object, *, limit: int = LIMIT) -> str:
    """Return text that LaTeX typesets as it is, outside verbatim."""
    line = visible(str(text), limit=limit, single_line=True)
    return "".join(_LATEX.get(letter, letter) for letter in line)


def guard_cell(value: object) -> object:
    """Return a cell, with an apostrophe before text that starts like a formula."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
