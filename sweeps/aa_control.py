"""Does the machinery find an effect where there is none?

Hypothesis: two conditions that differ in which examples of one kind were drawn are not called different.
Refuted if: learned or retained scores of the two differ by more than the margin.
Source: an A/A test, the control of every other claim here.
Command: make sweep NAME=aa_control
Design: 20 or 30 rows are set aside for validation, which selects nothing here; the examples are drawn from what is
    left, so each condition has a draw of its own. Their difference is what another draw does: noise, and no effect.
Cost: 2 conditions x 5 seeds x 2 worlds = 20 trials; on the pocket world 3 minutes on 2 cores after the two base models.
Measured on the pocket world (2026-11-22, worlds 0 and 1, 5 seeds each): learned scores differ by -.004 [-.021,
    +.014], retained ones by -.004 [-.016, +.009]. AA: supported.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Contrast, Sweep, difference

SET_ASIDE = "data.num_validation"


def _equal(measure: str) -> Contrast:
    return Contrast(terms=difference(measure, {SET_ASIDE: 30}, {SET_ASIDE: 20}), expect="equal", margin=0.05)


SWEEP = Sweep(
    name="aa_control",
    hypothesis="Two conditions that differ in which examples of one kind were drawn are not called different.",
    refuted_if="Learned or retained scores of the two differ by more than the margin.",
    source="A/A test: the control of every other claim",
    axes=(Axis(field=SET_ASIDE, values=(20, 30)),),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="AA",
            statement="Another draw of the same kind of examples changes nothing.",
            source="control",
            published="0 by construction",
            parts=(_equal("learned"), _equal("retained")),
        ),
    ),
)
