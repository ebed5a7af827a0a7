"""Write the golden record of the current schema version, once: `python -m tests.golden`."""

from __future__ import annotations

from pathlib import Path

from harness import versions
from harness.identity import trial_id
from harness.records.store import Store, write_atomic
from harness.spec import Runtime
from tests.engine.stub import run_stub
from tests.specs import pinned_spec

if __name__ == "__main__":
    store = Store(Path(__file__).parent / f"record_v{versions.RECORD_SCHEMA}")
    spec = pinned_spec()
    folder = store.trial(trial_id(spec))
    write_atomic(folder / "spec.json", spec.model_dump_json(indent=1).encode())
    (folder / "attempts.jsonl").write_text('{"event": "start", "attempt": 1}\n')
    runtime = Runtime(num_threads=1, micro_batch_size=8, eval_batch_size=8)
    run_stub(spec, store, runtime, "python -m harness run-trial x --out out", lambda **_: None)
    for leftover in (store.root / "runs.jsonl", folder / "attempts.jsonl"):
        leftover.unlink()
