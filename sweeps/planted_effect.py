"""Does the machinery find an effect that is certainly there?

Hypothesis: at a hundredth of the reference learning rate next to nothing is learned.
Refuted if: the learned score at the reference rate is not clearly above that at a hundredth of it.
Source: a planted effect, the control of every other claim here.
Command: make sweep NAME=planted_effect
Design: the two conditions differ in the learning rate alone.
Cost: 2 conditions x 5 seeds x 2 worlds = 20 trials, half of them those of `aa_control`; on the pocket world 2 minutes
    on 2 cores after the two base models.
Measured on the pocket world (2026-11-22, worlds 0 and 1, 5 seeds each): learned .855 against .000 (+.855 [+.831,
    +.878]). PLANTED: supported.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Contrast, Sweep, difference

RATE = "train.learning_rate"

SWEEP = Sweep(
    name="planted_effect",
    hypothesis="At a hundredth of the reference learning rate next to nothing is learned.",
    refuted_if="The learned score at the reference rate is not clearly above that at a hundredth of it.",
    source="Planted effect: the control of every other claim",
    axes=(Axis(field=RATE, values=(0.01, 1.0), relative_to="reference_learning_rate"),),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="PLANTED",
            statement="The reference learning rate teaches more than a hundredth of it.",
            source="control",
            published="certain by construction",
            parts=(Contrast(terms=difference("learned", {RATE: 1.0}, {RATE: 0.01}), expect="greater", margin=0.1),),
        ),
    ),
)
