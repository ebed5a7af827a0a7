"""Taking secrets out of everything that this project writes or prints.

What counts as a secret: the value of an environment variable whose name speaks of one, or the password in a URL that a
variable holds; as it is, in base64, in hexadecimal or as a part of a URL; and text of the shape of a known kind of
token, of a password in a URL, or of `password=...`. Invariant: none of them reaches a log, a record, a tracker or a
terminal. Hashes and pinned revisions are no secrets and stay. What does not live here: escaping (analysis/escape.py),
personal data in training rows (harness/data/scrubbing.py).
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import sys
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO, cast

REDACTED = "[redacted]"
MIN_LENGTH = 8
"""Characters of a variable's value that is redacted: a shorter one would take innocent text with it."""
# "token" in the singular: num_tokens=400 is a count, and what comes per token is a number.
_SECRET_NAME = r"(?:(?<!\bper[ _])(?<!_per_)token|api[_-]?key|secret|password|passwd|passphrase|credentials?)"
_ENVIRONMENT = re.compile(rf"{_SECRET_NAME}$|(?:^|_)(?:key|key_id|pass|auth|pat)$|_pwd$", re.IGNORECASE)
_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[opusr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|wandb_v\d_\w{16,})"
)
_ASSIGNED = re.compile(
    rf"((?:\b|_){_SECRET_NAME}[\"']?\s*[=:]\s*|--?{_SECRET_NAME}\s+)([\"']?)[^\s\"'&]+", re.IGNORECASE
)
_URL_USER = re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?=@)")
_URL_PASSWORD = re.compile(r"://[^/\s@:]*:([^/\s@]+)@")


def environment_secrets(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return what must not be shown of the variables named like secrets and of URLs with a password, longest first."""
    found = {value for name, value in environment.items() if _ENVIRONMENT.search(name) and not _is_a_place(value)}
    for value in environment.values():
        found.update(_URL_PASSWORD.findall(value))
    return _in_every_form(frozenset(value for value in found if len(value) >= MIN_LENGTH))


def _is_a_place(value: str) -> bool:
    """Return whether a value is a path, as that of a variable which names a file of credentials."""
    return os.path.isabs(value) and os.path.exists(value)


@lru_cache(maxsize=16)
def _in_every_form(secrets: frozenset[str]) -> tuple[str, ...]:
    forms = {form for secret in secrets for form in (secret, *_encoded(secret))}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def _encoded(secret: str) -> Iterator[str]:
    """Yield a secret as it looks inside base64 at each of its three alignments, in hexadecimal, in a URL and quoted."""
    content = os.fsencode(secret)
    for offset in range(3):
        # Of a longer encoded text, the characters that these bytes alone decide.
        first, last = (offset * 8 + 5) // 6, (offset + len(content)) * 8 // 6
        text = base64.b64encode(b"\0" * offset + content).decode()
        yield from {text[first:last], text[first:last].replace("+", "-").replace("/", "_")}
    yield content.hex()
    yield from {urllib.parse.quote(content), urllib.parse.quote(content, safe=""), urllib.parse.quote_plus(content)}
    yield repr(secret)[1:-1]


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable of the environment holds a secret, by its name or by the shape of its value."""
    return _ENVIRONMENT.search(name) is not None or redact(value) != value


def redact(value: Any, secrets: Iterable[str] | None = None) -> Any:
    """Return JSON-like data with every secret in its keys and texts replaced.

    Args:
        value: None, bool, numbers, text, lists and dictionaries of these.
        secrets: literal values to replace, as from `environment_secrets`; None is those of this process.
    """
    held = environment_secrets() if secrets is None else tuple(secrets)
    if isinstance(value, str):
        return _redact_text(value, held)
    if isinstance(value, dict):
        return {_redact_text(str(name), held): redact(item, held) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, held) for item in value]
    return value


def holds_secret(text: str) -> bool:
    """Return whether a text that records would keep holds a secret: one of this process, a token, a URL's password."""
    held = any(secret in text for secret in environment_secrets())
    return held or _TOKENS.search(text) is not None or _URL_USER.search(text) is not None


def _redact_text(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    text = _URL_USER.sub(REDACTED, _TOKENS.sub(REDACTED, text))
    return _ASSIGNED.sub(rf"\1\2{REDACTED}", text)


def redacted_bytes(path: Path) -> bytes | None:
    """Return what a text file must hold instead of a secret that a program wrote there, or None where it may stay."""
    text = path.read_bytes().decode(errors="surrogateescape")
    redacted = redact(text)
    return None if redacted == text else redacted.encode(errors="surrogateescape")


class _Stream:
    """A text stream that redacts what is written to it; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_output() -> None:
    """Redact what this process prints from now on."""
    sys.stdout, sys.stderr = _protected(sys.stdout), _protected(sys.stderr)


def _protected(stream: TextIO) -> TextIO:
    return stream if isinstance(stream, _Stream) else cast("TextIO", _Stream(stream))


@contextlib.contextmanager
def output() -> Iterator[None]:
    """Redact what this process prints meanwhile."""
    before = sys.stdout, sys.stderr
    protect_output()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
