"""Making text harmless where it is shown: model output is hostile until proven otherwise.

Invariant: nothing that a model, a data file or an error message says can execute, style or hide anything in HTML,
Markdown, LaTeX, a spreadsheet or a terminal. HTML itself is escaped by the template engine. What does not live here:
redaction of secrets (harness/redact.py).
"""

from __future__ import annotations

import re
import unicodedata

LIMIT = 1500
"""Characters of one text shown in a report; the whole text is in samples.parquet."""

_FORMULA = re.compile("^[\\s\\x00-\\x1f\\u200b\\ufeff]*[-=+@\uff1d\uff0b\uff0d\uff20]|^[\\t\\r]")
"""What spreadsheets take for a formula: also after blanks, and in the wide forms of East Asian keyboards."""
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
    "`": r"\textasciigrave{}",
    "-": "{-}",  # two would become a dash
    # After the end of a row, these would be its argument and its star.
    "[": "{[}",
    "*": "{*}",
    "\u2014": "---",
    "\u2013": "--",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
    "\u2026": r"\ldots{}",
    "\u00a7": r"\S{}",
    "\u2020": r"\dag{}",
    "\u2021": r"\ddag{}",
    "\u00df": r"\ss{}",
    "\u00e6": r"\ae{}",
    "\u00f8": r"\o{}",
    "\u0142": r"\l{}",
    "\u0153": r"\oe{}",
} | {
    letter: rf"\ensuremath{{\{name}}}"
    for letter, name in {
        "\u2192": "rightarrow",
        "\u2190": "leftarrow",
        "\u2191": "uparrow",
        "\u2193": "downarrow",
        "\u23ce": "hookleftarrow",
        "\u00b1": "pm",
        "\u00d7": "times",
        "\u00b7": "cdot",
        "\u2264": "leq",
        "\u2265": "geq",
        "\u0394": "Delta",
        "\u00b5": "mu",
        "\u03bc": "mu",
    }.items()
} | {"\u2212": r"\ensuremath{-}"}  # fmt: skip
_LATEX_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
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
    """Return text that LaTeX typesets as it is, outside verbatim: ASCII alone, with no package and in any encoding.

    A letter that pdfLaTeX has no sign for is shown by its code point, [U+4E2D], so that none is lost.
    """
    line = visible(str(text), limit=limit, single_line=True)
    return "".join(_latex_letter(letter) for letter in line)


def _latex_letter(letter: str) -> str:
    if letter in _LATEX:
        return _LATEX[letter]
    if letter.isascii():
        return letter
    base, *marks = unicodedata.normalize("NFD", letter)
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _LATEX_ACCENTS:
        return f"\\{_LATEX_ACCENTS[marks[0]]}{{{base}}}"
    return f"{{[}}U+{ord(letter):04X}]"


def guard_cell(value: object) -> object:
    """Return a cell, with an apostrophe before text that starts like a formula."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
