"""How often should the data be passed?

Hypothesis: the target score peaks after a few epochs, while what the base knew declines with every further one.
Refuted if: the target still rises at the largest number of epochs, or retained scores stop falling before the
    target peaks.
Source: Biderman et al., LoRA Learns Less and Forgets Less (arXiv:2405.09673), tables S5 and S6: full fine-tuning
    peaks at 8 epochs on HumanEval while the forgetting average falls monotonically from .595 to .414.
Command: make sweep NAME=epochs
Design: every number of epochs is a separate run with its own full learning-rate decay; a checkpoint of a longer run
    would still be at a high learning rate.
Cost: 5 lengths x 3 seeds = 15 trials, 31 epoch units a seed; on the pocket world 2 to 3 minutes on 2 cores after the
    base model.
Measured on the pocket world (2026-11-22, full fine-tuning): over 1, 2, 4, 8 and 16 epochs learned scores are .53 .84
    .87 .84 .77, and retained ones move by -.03 -.05 -.06 -.11 -.14. The hypothesis holds.
"""

from __future__ import annotations

from harness.spec import Axis, Sweep

SWEEP = Sweep(
    name="epochs",
    hypothesis="The target score peaks after a few epochs, while what the base knew declines with every further one.",
    refuted_if=(
        "The target still rises at the largest number of epochs, or retained scores stop falling before the target "
        "peaks."
    ),
    source="Biderman et al., arXiv:2405.09673, tables S5 and S6",
    axes=(Axis(field="train.num_epochs", values=(1.0, 2.0, 4.0, 8.0, 16.0)),),
    seeds=(0, 1, 2),
    measures=("learned", "retained", "fluency"),
)
