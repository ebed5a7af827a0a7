"""Tests that share a fixture of their module run on one worker of xdist; all others wherever there is room."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def dear() -> object:
    return object()


def test_users_of_a_fixture_of_their_module_are_a_group(dear: object, request: pytest.FixtureRequest) -> None:
    marks = request.node.iter_markers("xdist_group")
    assert [mark.args for mark in marks] == [("tests/test_grouping.py",)]


def test_other_tests_are_in_no_group(request: pytest.FixtureRequest) -> None:
    assert list(request.node.iter_markers("xdist_group")) == []
