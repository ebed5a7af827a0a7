"""Canaries in the launcher's environment, and the search for them on disk; free of torch, since jobs import it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

CANARY = "canary-9f31c7-of-the-launcher"
SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HARNESS_TOKEN")


def variables_and_wait(names: Sequence[str], file: Path) -> list[str | None]:
    """Say that this job runs, wait for a file, and return what this process has of some variables."""
    file.with_suffix(".awaited").touch()
    while not file.exists():
        time.sleep(0.05)
    return [os.environ.get(name) for name in names]


def files_with(text: str, *folders: Path) -> list[Path]:
    """Return the files that hold a text."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in paths if text.encode() in path.read_bytes()]
