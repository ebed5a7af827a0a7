"""Programs and packages that a test needs of the machine.

Invariant: where one is missing the test is skipped with its name, and fails where `CI` is true: nothing is passed over
in silence there. What does not live here: real weights and data beside the checkout, which CI has none of.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from types import ModuleType
from typing import NoReturn

import pytest


def program(*names: str) -> str:
    """Return the path of the first program that is here."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found if found is not None else _missing(f"none of {', '.join(names)} is on this machine")


def installed(name: str, advice: str = "make check installs it") -> None:
    """Go on where a package of the extra `dev` is installed, without importing it: marimo's mere presence among the
    modules makes transformers take this process for a notebook, and its Trainer then wants IPython."""
    if importlib.util.find_spec(name.split(".")[0]) is None:
        _missing(f"{name} is not installed: {advice}")


def package(name: str, advice: str = "make check installs it") -> ModuleType:
    """Return a module of the extra `dev`."""
    installed(name, advice)
    return importlib.import_module(name)


def extra(name: str) -> ModuleType:
    """Return a module of the extras `ray` and `slurm`, which are no part of `dev`."""
    return package(name, "make schedulers installs it")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
