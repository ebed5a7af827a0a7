"""Where sweeps are, once or again and again, from their files alone.

Invariant: nothing is locked and nothing is written, so that it can be asked of a folder that others write, or that
cannot be written; a file that is damaged or being replaced is told, never raised. What does not live here: what is
shown (answers.py, show.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from harness.engine.answers import StatusView
from harness.engine.launched import planned
from harness.engine.resolve import Request
from harness.errors import BadInputError, StoreError
from harness.records.schema import SweepRecord
from harness.records.store import Store

SECONDS = 2.0


def status(request: Request | None, out: Path) -> StatusView:
    """Return where one sweep is, or every sweep of an output folder.

    Raises:
        BadInputError: the request cannot be planned.
    """
    store = Store(out)
    if request is None:
        return _all(store)
    try:
        return StatusView((planned(request).record,), store)
    except StoreError as error:
        return StatusView((), store, (str(error),))


def _all(store: Store) -> StatusView:
    records: list[SweepRecord] = []
    problems: list[str] = []
    for path in (folder / "sweep.json" for folder in sorted(store.root.glob("sweeps/*"))):
        try:
            record = store.read(path, SweepRecord)
        except (StoreError, BadInputError) as error:
            problems.append(str(error))
        else:
            records += [] if record is None else [record]  # set aside since it was listed
    return StatusView(tuple(records), store, tuple(problems))


def watch(request: Request | None, out: Path) -> Iterator[StatusView]:
    """Yield the status whenever it changed, until every trial has ended.

    Raises:
        BadInputError: the request cannot be planned.
    """
    before = None
    while True:
        current = status(request, out)
        found = current.as_json()
        if found != before:
            yield current
        if current.is_over(found):
            return
        before = found
        time.sleep(SECONDS)
