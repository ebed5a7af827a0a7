"""How many rows a data spec can give, as far as that is known before anything is read.

Invariant: None where unknown; never a guess. What does not live here: reading rows (harness/data).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from harness.errors import SpecError
from harness.spec import DataSource, DataSpec, FileData, PocketData, PocketText, TrialSpec


def available(data: DataSpec) -> int | None:
    """Return an upper bound of the rows left for training, or None where it is unknown.

    Validation rows are set aside first; a completion ratio keeps half of what remains. Rows that are dropped for their
    length or form are only known after reading, and how many others repeat may be most of them.
    """
    total = _total(data.source)
    if total is None or data.deduplicate != "off" or data.decontaminate:
        return None
    left = max(0, total - data.num_validation)
    return left if data.completion_ratio == "any" else (left + 1) // 2


def _total(source: DataSource) -> int | None:
    if isinstance(source, PocketData | PocketText):
        return source.num_rows
    if isinstance(source, FileData) and Path(source.path).is_file():
        return _count_file(Path(source.path))
    return None


@lru_cache(maxsize=8)
def _count_file(path: Path) -> int | None:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_metadata(path).num_rows
    with path.open("rb") as stream:
        return sum(1 for line in stream if line.strip())


def check_size(spec: TrialSpec, base: str) -> None:
    """Refuse a training subset larger than its data.

    Raises:
        SpecError: `data.num_examples` is more than there can be.
    """
    most = available(spec.data)
    size = spec.data.num_examples
    sizes = spec.data.part_sizes(size) if size is not None else {}
    num_others = sum(sizes.values())
    if most is not None and size is not None and size - num_others > most:
        others = ", ".join(f"{count} rows of {name}" for name, count in sizes.items() if count)
        raise SpecError(
            f"data.num_examples is {size}, but must be at most {most} on base {base!r} (rows of the data less "
            f"{spec.data.num_validation} for validation"
            f"{', half of them by completion_ratio' if spec.data.completion_ratio != 'any' else ''}"
            f"{f', beside {others}' if others else ''}); give more data or smaller sizes."
        )
    _check_parts(spec.data, sizes, base)


def _check_parts(data: DataSpec, sizes: Mapping[str, int], base: str) -> None:
    """Refuse more rows of a replay or mixed source than it has."""
    parts = [("data.replay_share", data.replay_share, "data.replay_source", data.replay_source, sizes.get("replay", 0))]
    for number, part in enumerate(data.mixture):
        name = f"data.mixture.{number}"
        parts.append((f"{name}.share", part.share, f"{name}.source", part.source, sizes.get(f"mixture.{number}", 0)))
    for field, share, name, source, asked in parts:
        most = _total(source) if source is not None else None
        if most is not None and asked > most:
            raise SpecError(
                f"{field} is {share!r} of {data.num_examples} rows, {asked}, but must be at most the {most} rows of "
                f"{name} on base {base!r}; give more of them or a smaller share."
            )
