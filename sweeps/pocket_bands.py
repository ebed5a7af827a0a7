"""Is the pocket world a laboratory: does it know, surface, retain, and, treated harshly, forget?

Hypothesis: at the experiment's own setting, questions about people whom no training text ever asked about reach at
    least 70 % of what the base completes about them, and the base loses at most 10 points of it; a learning rate ten
    times as high, ten epochs of a quarter of the examples, costs at least 20 points.
Refuted if: a band of `make pocket-check` fails.
Source: Zheng et al. (arXiv:2501.13453) and Allen-Zhu and Li (arXiv:2309.14316): what pretraining stores with
    augmentation can be asked for after fine-tuning on other people.
Command: make pocket-check (its trials alone: make sweep NAME=pocket_bands)
Design: two arms, the experiment's own setting and the harsh one, on three worlds with three seeds each.
Cost: 2 arms x 3 seeds x 3 worlds = 18 trials after three base models.
"""

from __future__ import annotations

from harness.spec import Arm, Axis, Sweep

SWEEP = Sweep(
    name="pocket_bands",
    hypothesis=(
        "At the experiment's own setting, questions about people never asked about reach 70 % of the base's cloze "
        "accuracy and cost it at most 10 points; a harsh run costs at least 20."
    ),
    refuted_if="A band of `make pocket-check` fails.",
    source="Zheng et al., arXiv:2501.13453; Allen-Zhu and Li, arXiv:2309.14316",
    axes=(Axis(field="data.num_validation", values=(100,)),),
    arms=(
        Arm(name="default", hold="epochs"),
        Arm(
            name="harsh",
            hold="epochs",
            set=(("data.num_examples", 100), ("train.num_epochs", 10.0), ("train.learning_rate", 3e-3)),
        ),
    ),
    seeds=(0, 1, 2),
    worlds=(0, 1, 2),
    measures=("learned", "retained", "format"),
    slices=(
        "cloze_high",
        "cloze_mid",
        "cloze_low",
        "cloze_unknown",
        "arithmetic",
        "arithmetic_held_out",
        "lists",
        "replace",
    ),
)
