"""A record's own sha256, in its first line: a flipped digit is no longer a valid record.

    {
     "sha256": "<64 hex digits>",
     "schema_version": 3,
     ...

The digest is of the file's bytes without that line. Invariant: a record with such a line is opened only where the
digest is right; one without, as schema versions 1 and 2 are written, is opened as it is. What does not live here: what
a record holds (schema.py), writing it (store.py).
"""

from __future__ import annotations

import hashlib
import re

import pydantic

OPENING = b"{\n"
_SEALED = re.compile(rb'\{\n "sha256": "([0-9a-f]{64})",\n')


def sealed(record: pydantic.BaseModel) -> bytes:
    """Return a record as the bytes of its file, sealed."""
    content = record.model_dump_json(indent=1).encode()
    digest = hashlib.sha256(content).hexdigest()
    return OPENING + f' "sha256": "{digest}",\n'.encode() + content.removeprefix(OPENING)


def opened(content: bytes) -> bytes:
    """Return the bytes of a record's file without its seal.

    Raises:
        ValueError: the sha256 in it is not that of the rest.
    """
    found = _SEALED.match(content)
    if found is None:
        return content
    rest = OPENING + content[found.end() :]
    if hashlib.sha256(rest).hexdigest() != found[1].decode():
        raise ValueError("its sha256 is not the one in its first line")
    return rest
