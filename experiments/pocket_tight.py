"""The pocket world with hardly any room: 800 people in a base of a quarter of a million parameters.

    make sweep NAME=claim_c1_epochs BASE=pocket_tight

On `pocket` what is forgotten can be recovered: the base has room for far more than it knows. Here what it knows and
what it learns compete for the same weights, and what is lost is overwritten.
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
)
