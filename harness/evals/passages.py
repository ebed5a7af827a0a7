"""Plain text as items of bits per byte. Free of torch.

Invariant: the passages of a text, one after another, are the text. What does not live here: scoring them.
"""

from __future__ import annotations

import re
from typing import Any

from harness.errors import DataError

NUM_CHARACTERS = 2_000
"""A passage ends with the first paragraph that reaches so many; a paragraph is never cut."""

_PARAGRAPH = re.compile(r".*?(?:\n\s*\n|\Z)", flags=re.DOTALL)


def passages(content: bytes, name: str) -> list[dict[str, Any]]:
    """Return a text file as items: `id` (the number of the passage) and `text`; white space alone is none.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 ({error}); save it as UTF-8") from error
    parts = [""]
    for paragraph in _PARAGRAPH.findall(text):
        if len(parts[-1]) >= NUM_CHARACTERS:
            parts.append("")
        parts[-1] += paragraph
    return [{"id": str(number), "text": part} for number, part in enumerate(parts) if part.strip()]
