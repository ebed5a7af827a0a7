"""Who may import whom, and what stays free of torch. Function-level imports count: they are imports, too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOUNDATION = {
    *("harness.errors", "harness.versions", "harness.spec", "harness.identity", "harness.seeding", "harness.redact"),
}
RECORDS = FOUNDATION | {"harness.records", "harness.pocket.world"}
STATIONS = {"harness.data", "harness.models", "harness.methods"}
MEASURES = {"harness.train", "harness.evals", "harness.tracking"}
# The generator of the world is spread over these modules; together they are `pocket.world`.
WORLD = {
    f"harness.pocket.{name}"
    for name in (
        *("world", "people", "skills", "prose", "corpus", "phrasings", "families", "conversations", "items"),
        *("slices_people", "slices_tasks", "audit"),
    )
}

ALLOWED: dict[str, set[str]] = {
    "harness.redact": set(),
    "harness.errors": {"harness.redact"},
    "harness.versions": set(),
    "harness.seeding": FOUNDATION,
    "harness.spec": {"harness.errors", "harness.versions"},
    "harness.identity": FOUNDATION,
    "harness.records": FOUNDATION,
    **dict.fromkeys(WORLD, FOUNDATION | WORLD),
    **dict.fromkeys(STATIONS, RECORDS | WORLD),
    **dict.fromkeys(MEASURES, RECORDS | WORLD | STATIONS),
    "harness.pocket": RECORDS | WORLD | STATIONS | MEASURES,
    "harness.trial": RECORDS | WORLD | STATIONS | MEASURES | {"harness.pocket"},
    "harness.engine": RECORDS
    | WORLD
    | STATIONS
    | MEASURES
    | {"harness.pocket", "harness.trial", "experiments", "sweeps", "analysis"},
    "harness.cli_options": set(),
    "harness.cli_output": RECORDS | {"harness.engine"},
    "harness.cli": RECORDS | {"harness.cli_options", "harness.cli_output", "harness.engine", "analysis"},
    "harness.__main__": {"harness.cli"},
    "analysis": FOUNDATION | {"harness.records"},
    "experiments": FOUNDATION | WORLD,
    "sweeps": FOUNDATION | {"experiments"},
}
TORCH_FREE = (
    "harness.spec",
    "harness.identity",
    "harness.records.store",
    "harness.records.schema",
    "harness.records.result",
    "harness.records.provenance",
    "harness.pocket.world",
    "experiments.pocket",
    "experiments.smollm2_135m_instruct",
    "sweeps.lima_size",
    "analysis",
    "analysis.claims",
    "analysis.compare",
    "analysis.power",
    "analysis.probed",
    "analysis.recovery",
    "analysis.stats_check",
    "harness.engine.plan",
    "harness.engine.launch",
    "harness.engine.commands",
    "harness.engine.claims_run",
    "harness.engine.places",
    "harness.engine.powered",
    "harness.engine.recovery",
    "harness.engine.serving",
    "harness.data.sources",
    "harness.evals.folder",
    "harness.cli",
)
HEAVY = ("torch", "transformers", "peft", "lm_eval", "datasets", "bitsandbytes", "ray", "submitit")


def module_name(path: Path) -> str:
    """Return the dotted name of a file below the root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, module: str) -> set[str]:
    """Return every module that a file imports, wherever in the file, as far as it is ours."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            parent = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{parent}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("harness", "analysis", "experiments", "sweeps")}


def unit(name: str) -> str | None:
    """Return the longest unit of `ALLOWED` that a dotted name belongs to."""
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in ALLOWED), None)


def violations(path: Path, module: str) -> list[str]:
    """Return the imports of a file that go against the direction."""
    own = unit(module)
    assert own is not None or module == "harness", f"{module} has no place in the direction of imports"
    if own is None:
        return [f"{module} imports {name}" for name in imported(path, module)]
    bad: list[str] = []
    for name in sorted(imported(path, module)):
        target = unit(name)
        if target is not None and target != own and target not in ALLOWED[own]:
            bad.append(f"{module} imports {name}")
    return bad


def sources() -> list[Path]:
    """Return every module that ships."""
    packages = ("harness", "analysis", "experiments", "sweeps")
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def test_imports_every_module_points_left() -> None:
    assert [bad for path in sources() for bad in violations(path, module_name(path))] == []


def test_imports_against_the_direction_are_found(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from harness.engine import plan\n"
        "def later():\n    from harness import models\n    import harness.train.loop\n"
        "    from harness.spec import Model\n"
    )
    assert violations(broken, "harness.data.broken") == [
        "harness.data.broken imports harness.engine.plan",
        "harness.data.broken imports harness.models",
        "harness.data.broken imports harness.train.loop",
    ]


def test_imports_relative_ones_are_resolved(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("from ..models import load\nfrom . import masks\n")
    assert violations(broken, "harness.data.broken") == ["harness.data.broken imports harness.models.load"]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_import_of_a_light_layer_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


def test_import_of_a_heavy_layer_is_seen_by_the_same_check() -> None:
    code = f"import sys, torch; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "torch" in done.stdout


def missing(path: Path) -> list[str]:
    """Return what a file imports from ours that is not there: neither a module nor a name at the top of one."""
    found = []
    for name in sorted(imported(path, path.stem)):
        module, _, last = name.rpartition(".")
        if _file(name) is None and last not in _defined(_file(module)):
            found.append(f"{path.name} imports {name}")
    return found


def _file(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _defined(path: Path | None) -> set[str]:
    tree = ast.parse(path.read_text()) if path is not None else ast.Module([], [])
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        for alias in getattr(node, "names", ())
        if isinstance(alias, ast.alias)
    }


def test_imports_of_what_no_test_runs_are_there() -> None:
    files = [path for folder in ("benchmarks", "notebooks") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    assert [bad for path in files for bad in missing(path)] == []


def test_imports_of_what_is_gone_are_found(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from harness.engine import plan, gone\ndef later():\n    from harness.redact import lost, redact\n"
    )
    assert missing(broken) == ["broken.py imports harness.engine.gone", "broken.py imports harness.redact.lost"]
