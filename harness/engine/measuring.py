"""Measuring what trials cost before a sweep runs, with a short trial of each shape and setting.

Invariant: a measurement stays, the trial behind it goes; a call that is killed leaves nothing that counts. What does
not live here: what is made of a measurement (forecast.py).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from harness.engine import forecast, launch
from harness.engine.beside import beside
from harness.engine.launch import Options, Summary, View
from harness.identity import trial_id
from harness.records.schema import PlannedTrial
from harness.records.store import Store, disk_errors
from harness.spec import PocketBase, Runtime

PROBE_STEPS = 5
POCKET_PROBE_STEPS = 40
"""Steps of the pocket base take some hundredths of a second each: with few of them one slow moment decides."""
DAY_SECONDS = 86400.0


def probe(
    store: Store, trials: Iterable[PlannedTrial], runtime: Runtime, options: Options, view: View | None = None
) -> Summary:
    """Measure one short trial of each shape and setting that has no measurement, so that the plan can forecast the
    rest; where ranks differ, one at each end.

    The short trials run in a scratch store that shares the artefacts, and are thrown away. Scores of bases are measured
    before them, since a trial that waits for its base's would seem to take as long.

    Raises:
        BadInputError: base, template or data cannot be used.
        DiskError: the output folder cannot be written.
    """
    short = [_shortened(trial) for trial in forecast.unmeasured(store, trials, runtime)]
    probes = store.root / "probes"
    with disk_errors(probes):
        probes.mkdir(parents=True, exist_ok=True)
        for leftover in probes.glob("scratch*"):  # of a probe that was killed
            if time.time() - leftover.stat().st_mtime > DAY_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="scratch-", dir=probes))
    try:
        scratch = beside(store, folder, [trial.spec for trial in short])
        measuring = runtime.replace({"rehearses": True})
        return launch.launch(scratch, short, measuring, replace(options, measure_into=store.root), view)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _shortened(trial: PlannedTrial) -> PlannedTrial:
    steps = POCKET_PROBE_STEPS if isinstance(trial.spec.base, PocketBase) else PROBE_STEPS
    spec = trial.spec.replace({"train.num_epochs": None, "train.num_steps": steps})
    return trial.model_copy(update={"spec": spec, "trial_id": trial_id(spec)})
