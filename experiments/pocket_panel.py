"""The pocket world asked how it answers: behaviour panel, held-out formats, typing errors, prose without a template.

    make sweep NAME=behaviour BASE=pocket_panel PANEL=full

Base and training are those of `pocket`, but for conversations of several turns among the rows: only they show a model
that a user's turn follows an answer. The slices are fewer, and some are of no other experiment.
"""

from __future__ import annotations

import json

from experiments.pocket import EXPERIMENT as POCKET
from experiments.pocket import FAMILIES, WORLD
from harness.pocket.world import eval_task
from harness.spec import EvalTask, Experiment, WorldSpec

WITH_PANEL = ("question_asked", "question_unasked", "answer_form", "question_rephrased", "follow_up")
WITHOUT = (
    *("cloze_unasked", "choice_unasked", "plain_unasked", "few_shot", "prose"),
    *("sum_chat", "sum_chat_rephrased", "raw_sum", "reverse_chat", "reverse_chat_rephrased", "raw_reverse"),
    *("chat_continue", "format_in_chat", "prose_continues", "quiz_continuation"),
)
TYPO_RATE = 0.3


def tasks(world: WorldSpec) -> tuple[EvalTask, ...]:
    """Return the slices of a world, those whose answers are looked at with a panel."""
    panels = [eval_task(world, name).replace({"panel": "behaviour"}) for name in WITH_PANEL]
    typos = {"name": "question_unasked_typos", "typo_rate": TYPO_RATE, "primary": False}
    return (*panels, eval_task(world, "question_unasked").replace(typos), *(eval_task(world, name) for name in WITHOUT))


EXPERIMENT = Experiment(
    name="pocket_panel",
    spec=POCKET.spec.replace(
        {
            "data.source.families": [*FAMILIES, "follow_up"],
            "evals.tasks": [json.loads(task.model_dump_json()) for task in tasks(WORLD)],
        }
    ),
    runtime=POCKET.runtime,
    methods=POCKET.methods,
    sizes=POCKET.sizes,
    extremes=POCKET.extremes,
    represented=(*POCKET.represented, "pocket/follow_up", "pocket/question_unasked_typos"),
)
