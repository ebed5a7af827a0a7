"""Sweeps and experiments by name.

Invariant: a name is looked up in the list of modules that ship, never joined to a path or imported unseen. What does
not live here: bases given as a folder or a trial (resolve.py).
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pydantic

import experiments
import sweeps
from harness.errors import SpecError, shown, unknown_name
from harness.spec import Experiment, Study, Sweep, explain

HUB_LOCK = Path(experiments.__file__).with_name("hub.lock.json")
"""The pins of everything that comes from the hub."""


def sweep_names() -> list[str]:
    """Return the names of all sweeps and studies."""
    return _module_names(sweeps)


def load_sweep(name: str) -> Sweep | Study:
    """Return a sweep or study by name.

    Raises:
        SpecError: there is none of that name, or its file holds none.
    """
    names = sweep_names()
    if name not in names:
        raise SpecError(unknown_name("NAME", name, names))
    module = _imported(sweeps, name)
    found = getattr(module, "SWEEP", None) or getattr(module, "STUDY", None)
    if not isinstance(found, Sweep | Study):
        raise SpecError(
            f"sweeps/{name}.py holds {shown(found)}, but must hold SWEEP or STUDY, which must be a Sweep or a Study."
        )
    return found


def experiment_names() -> list[str]:
    """Return the names of all experiments; modules without an `EXPERIMENT` are not experiments."""
    return [name for name in _module_names(experiments) if _offers_experiment(_experiment_module(name))]


def _offers_experiment(module: ModuleType) -> bool:
    # A module with __getattr__ builds its EXPERIMENT when asked, and may refuse: one whose hub id is not pinned yet.
    return bool({"EXPERIMENT", "__getattr__"} & vars(module).keys())


def load_experiment(name: str) -> Experiment:
    """Return an experiment by name.

    Raises:
        SpecError: there is none of that name.
        ModelError: it is on a hub model that is not pinned yet.
    """
    module = _experiment_module(name) if name in _module_names(experiments) else None
    if module is None or not _offers_experiment(module):
        sentence = unknown_name("BASE", name, experiment_names())
        raise SpecError(f"{sentence} A path to a model folder or trial:<id> is allowed as well.")
    return module.EXPERIMENT


def _module_names(package: ModuleType) -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def _experiment_module(name: str) -> ModuleType:
    return _imported(experiments, name)


def _imported(package: ModuleType, name: str) -> ModuleType:
    """Return a module that a researcher may have written: what is wrong with it is one sentence.

    Raises:
        SpecError: it is no Python, names what is not there, or holds a value that cannot be.
    """
    where = f"{package.__name__}/{name}.py"
    try:
        return importlib.import_module(f"{package.__name__}.{name}")
    except pydantic.ValidationError as error:
        raise SpecError(f"{where}: {problem}" for problem in explain(error)) from error
    except SyntaxError as error:
        raise SpecError(f"{where} cannot be read as Python: {error.msg} at line {error.lineno}.") from error
    except (ImportError, NameError, AttributeError, TypeError) as error:
        raise SpecError(f"{where} cannot be loaded: {error}.") from error
