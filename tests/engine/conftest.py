"""What several tests of studies are given: something that runs stub studies, and a PostgreSQL server of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.postgres import PASSWORD, Server, server
from tests.engine.study_runs import Runner


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(monkeypatch)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield made
