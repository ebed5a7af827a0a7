"""Versions below which a library has a known hole in its security are not accepted, and are not here."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
CONSTRAINTS = PYPROJECT.with_name("constraints.txt")
FLOORS = {"torch": "2.10", "transformers": "5.3", "jinja2": "3.1.6"}


def below(floor: str) -> list[str]:
    """Return versions just below a floor, and some older ones."""
    parts = [int(part) for part in floor.split(".")]
    return [".".join(map(str, [*parts[:-1], parts[-1] - 1])), f"{floor}rc1", f"{parts[0] - 1}.99", "0.1"]


@pytest.mark.parametrize("name", FLOORS)
def test_floor_of_a_library_is_declared_pinned_and_installed(name: str) -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    (declared,) = [one for one in map(Requirement, project["dependencies"]) if one.name.lower() == name]
    assert not any(declared.specifier.contains(version, prereleases=True) for version in below(FLOORS[name]))
    pins = [Requirement(line) for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    (pin,) = [one for one in pins if one.name.lower() == name]
    assert not any(pin.specifier.contains(version, prereleases=True) for version in below(FLOORS[name]))
    assert Version(metadata.version(name)) >= Version(FLOORS[name])
