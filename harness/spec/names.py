"""Names and literals that specs share.

Invariant: a form here is checked wherever it is used. What does not live here: any spec.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
LONGEST_NAME = 255
"""Bytes of a name on Linux."""


def _path_name(text: str) -> str:
    if text in ("", ".", "..") or "/" in text or not _is_plain(text) or len(text.encode()) > LONGEST_NAME:
        raise ValueError("the name of a file or folder, without a path")
    return text


def is_inner_path(text: str) -> bool:
    """Return whether a text is a path that stays below the folder it is taken from."""
    path = PurePosixPath(text)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and _is_plain(text)


def _inner_path(text: str) -> str:
    if not is_inner_path(text):
        raise ValueError("a path inside its folder, neither absolute nor with ..")
    return text


def _is_plain(text: str) -> bool:
    return not any(character < " " or "\ud800" <= character <= "\udfff" for character in text)


PathName = Annotated[str, AfterValidator(_path_name)]
"""Of a record: becomes the name of a folder, which must not lead out of where it is looked for."""
InnerPath = Annotated[str, AfterValidator(_inner_path)]
"""Of a record: a file below a folder."""
DType = Literal["float32", "bfloat16_autocast", "bfloat16"]
RowFormat = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "text", "tokens"]
"""How the rows of a file are written; harness/data/formats.py says what each holds."""
Measure = Literal["learned", "retained", "fluency", "format", "safety"]
"""What a slice measures: the behaviour taught; what the base knew; raw-text modelling; the answer's form; refusing
what should be refused and nothing else."""
