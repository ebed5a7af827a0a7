from __future__ import annotations

from pathlib import Path

import pytest

from harness.models import BaseFiles, inspect_folder
from tests.models.tiny import write_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder; copy it before changing it."""
    return write_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_files(tiny_folder: Path) -> BaseFiles:
    """The same folder, inspected."""
    return inspect_folder(tiny_folder)
