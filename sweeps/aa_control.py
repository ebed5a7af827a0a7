"""Does the machinery find an effect where there is none?

Hypothesis: two conditions that differ in a number that nothing reaches are not called different.
Refuted if: learned or retained scores of the two differ by more than the margin.
Source: an A/A test, the control of every other claim here.
Command: make sweep NAME=aa_control
Design: the training loss that ends a trial as DIVERGED is 20 or 40; no trial on the pocket world comes near either. The
    fingerprints differ, so every trial is trained and scored on its own.
Cost: 2 conditions x 5 seeds x 2 worlds = 20 trials; on the pocket world 3 minutes on 2 cores after the two base models.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Contrast, Sweep, Term

LIMIT = "train.loss_limit"


def _difference(measure: str) -> Contrast:
    return Contrast(
        terms=(
            Term(metric=measure, at=((LIMIT, 40.0),), weight=1.0),
            Term(metric=measure, at=((LIMIT, 20.0),), weight=-1.0),
        ),
        expect="equal",
        margin=0.03,
    )


SWEEP = Sweep(
    name="aa_control",
    hypothesis="Two conditions that differ in a number that nothing reaches are not called different.",
    refuted_if="Learned or retained scores of the two differ by more than the margin.",
    source="A/A test: the control of every other claim",
    axes=(Axis(field=LIMIT, values=(20.0, 40.0)),),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="AA",
            statement="A loss limit that no trial reaches changes nothing.",
            source="control",
            published="0 by construction",
            parts=(_difference("learned"), _difference("retained")),
        ),
    ),
)
