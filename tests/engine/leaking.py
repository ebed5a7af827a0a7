"""The real command line on the tiny base, with trials that say every secret: `python -m tests.engine.leaking WORDS`.

With `LEAK` nothing is trained and no report is written; `study` makes a study short, `broken` switches redaction off,
here and in the workers.
"""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harness import cli, redact
from harness.engine import catalog, hooks, launch, study, worker
from harness.records.schema import TrialResult
from harness.records.store import Store
from harness.spec import Runtime, TrialSpec
from tests.engine.stub import run_stub
from tests.pocket.tiny import tiny_experiment

CANARIES = {
    "WANDB_API_KEY": "c4nary0wandb0" + "7" * 27,
    "HF_TOKEN": "hf_c4nary1hub1AAAABBBBCCCC",
    "OPENAI_API_KEY": "sk-c4nary2openai2-xyzxyzxyzxyz",
    "PGPASSWORD": "c4nary3 p&ss/w%rd",
    "AWS_SECRET_ACCESS_KEY": "c4nary4/aws+AAAABBBBCCCCDDDD",
    "DATABASE_URL": "postgresql://me:c4nary5urlpassword@db.example/lab",
}
SECRETS = {name: value.partition("://me:")[2].partition("@")[0] or value for name, value in CANARIES.items()}
UNKNOWN = "hf_c4nary6unknown6token6token"
"""A token that no variable holds: its shape alone tells."""


def run_leaking(
    spec: TrialSpec, store: Store, runtime: Runtime, command: str, report: Callable[..., None]
) -> TrialResult:
    """The `TrialFunction`: say all, then fail at seed 1 with all of it in the error, and train at another."""
    if os.environ.get("LEAK") == "broken":
        switch_redaction_off()
    report(phase="train", step=1, num_steps=2)
    said = [*SECRETS.values(), UNKNOWN, f"Basic {base64.b64encode(('me:' + SECRETS['PGPASSWORD']).encode()).decode()}"]
    said += [urllib.parse.quote(SECRETS["PGPASSWORD"], safe=""), f"api_key={UNKNOWN}", CANARIES["DATABASE_URL"]]
    for text in said:
        print(text)
        logging.getLogger("leak").warning("%s", text)
    subprocess.run(["env"], check=True)
    os.write(1, "\n".join(said).encode())
    if spec.seed == 1:
        raise ValueError(" ".join(said))
    run = worker.run_trial if "LEAK" not in os.environ else run_stub
    return run(spec, store, runtime, command, report)


def switch_redaction_off() -> None:
    """Make the broken build that the search for secrets must catch."""
    redact._redact_text = lambda text, secrets: text
    redact.holds_secret = lambda text: False


def main() -> None:
    """Run the command line on the tiny base."""
    if os.environ.get("LEAK") == "broken":
        switch_redaction_off()
    plain = launch.launch

    def leaking(store: Any, trials: Any, runtime: Any, how: launch.Options, view: Any = None) -> launch.Summary:
        how = replace(how, run=run_leaking, prepare="LEAK" not in os.environ)
        return plain(store, trials, runtime, how, view)

    launch.launch = study.launch = leaking
    catalog.load_experiment = lambda name: tiny_experiment()
    if os.environ.get("LEAK") == "study":
        short = catalog.load_sweep("tune").model_copy(update={"num_conditions": 2})
        catalog.load_sweep = lambda name: short
    if "LEAK" in os.environ:
        hooks.write_report = lambda made: None
    cli.main()


if __name__ == "__main__":
    main()
