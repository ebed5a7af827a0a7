"""Taking secrets out of whatever leaves this machine's records.

Invariant: a value of an environment variable whose name speaks of a secret, and text that has the shape of a known
kind of token, never reach a tracker. Hashes and pinned revisions are not secrets and stay. What does not live here:
escaping (analysis/escape.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

REDACTED = "[redacted]"
# "token" in the singular: num_tokens=400 is a count.
_SECRET_NAME = r"(?:token|api[_-]?key|secret|password|passwd|credentials?)"
_ENVIRONMENT = re.compile(rf"({_SECRET_NAME}|(?:^|_)key)$", re.IGNORECASE)  # PGPASSWORD, too
_TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[opusr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|wandb_v\d_\w{16,})"
)
_ASSIGNED = re.compile(rf"((?:\b|_){_SECRET_NAME}[\"']?\s*[=:]\s*|--?{_SECRET_NAME}\s+)[\"']?[^\s\"'&]+", re.IGNORECASE)
_URL_USER = re.compile(r"(?<=://)[^/\s@:]+:[^/\s@]+(?=@)")


def environment_secrets(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the values of variables named like secrets, longest first; short ones would redact innocent text."""
    values = {value for name, value in environment.items() if _ENVIRONMENT.search(name) and len(value) >= 8}
    return tuple(sorted(values, key=len, reverse=True))


def is_secret(name: str, value: str) -> bool:
    """Return whether a variable of the environment holds a secret, by its name or by the shape of its value."""
    return _ENVIRONMENT.search(name) is not None or redact(value) != value


def redact(value: Any, secrets: Iterable[str] = ()) -> Any:
    """Return JSON-like data with every secret in its keys and texts replaced.

    Args:
        value: None, bool, numbers, text, lists and dictionaries of these.
        secrets: literal values to replace, as from `environment_secrets`.
    """
    held = tuple(secrets)
    if isinstance(value, str):
        return _redact_text(value, held)
    if isinstance(value, dict):
        return {_redact_text(str(name), held): redact(item, held) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, held) for item in value]
    return value


def _redact_text(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    text = _URL_USER.sub(REDACTED, _TOKENS.sub(REDACTED, text))
    return _ASSIGNED.sub(rf"\1{REDACTED}", text)
