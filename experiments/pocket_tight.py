"""The pocket world with less room: 801 people in a base of a quarter of a million parameters.

    make sweep NAME=claim_c1_epochs BASE=pocket_tight

Per parameter it holds nearly seven times the facts of `pocket`, in a base that is half as wide. That is still 4 % of
the bits that so many parameters can store: tighter, not full.
"""

from __future__ import annotations

import json

from experiments.pocket import EXPERIMENT as POCKET
from experiments.pocket import MODEL, WORLD, tasks
from harness.spec import Experiment, PocketBase

TIGHT_WORLD = WORLD.replace({"people_per_tier": 267, "exposures_high": 120, "exposures_mid": 20, "exposures_low": 6})
TIGHT_MODEL = MODEL.replace({"hidden_size": 64})

EXPERIMENT = Experiment(
    name="pocket_tight",
    spec=POCKET.spec.replace(
        {
            "base": PocketBase(world=TIGHT_WORLD, model=TIGHT_MODEL),
            "data.source.world": TIGHT_WORLD,
            "data.replay_source.world": TIGHT_WORLD,
            "evals.tasks": [json.loads(task.model_dump_json()) for task in tasks(TIGHT_WORLD)],
        }
    ),
    runtime=POCKET.runtime,
    methods=POCKET.methods,
    sizes=POCKET.sizes,
    extremes=POCKET.extremes,
    represented=POCKET.represented,
)
