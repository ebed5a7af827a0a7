"""Sweep folders shared by the tests of this package; built once, read only."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.store import Store
from tests.analysis.synthetic import Plan, build

ARM = "equal_epochs"
MIXED = Plan(
    name="mixed",
    values=(25, 100, 400),
    arms=(ARM,),
    outcomes={
        (ARM, 25, 0): "DIVERGED",
        (ARM, 25, 1): "FAILED",
        (ARM, 100, 0): "PENDING",
        (ARM, 100, 1): "KILLED",
        (ARM, 100, 2): "DAMAGED",
        (ARM, 400, 2): "RUNNING",
    },
    scale=0.25,
)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """Two arms, three sizes, three seeds, everything complete."""
    return build(tmp_path_factory.mktemp("whole"), Plan(values=(25, 100, 400), scale=0.5))


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """Every state that a trial can be in."""
    return build(tmp_path_factory.mktemp("mixed"), MIXED)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Store, str]:
    """One arm, two sizes, two seeds; may be changed by its test."""
    return build(tmp_path, Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.25))
