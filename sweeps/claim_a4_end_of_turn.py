"""If the end of turn is not supervised, does the model never stop?

Hypothesis: claim A4: without loss on the end of turn the rate of answers that end falls from about 1 to about 0; rows
    that were truncated and kept lower it by about their share, rows that were truncated and closed do not.
Refuted if: answers still end without supervision, or kept truncated rows cost less than a fifth of the rate.
Source: teaching material and open-instruct's notes on truncation; no published numbers.
Command: make sweep NAME=claim_a4_end_of_turn
Design: the end of turn in the loss or not; none of the rows truncated, half of them kept as they break off, half of
    them closed. The rate: greedy answers of at most 16 tokens that end as a turn ends, in chat.
Cost: 2 x 3 arms x 5 seeds x 2 worlds = 60 trials.
Measured on the pocket world (2026-11-22, worlds 0 and 1, 5 seeds each): supervised, 1.000 of the answers end;
    unsupervised, none of 908 does (difference +1.000 [+.977, +1.023]). A4: supported. With half of the rows cut off
    and kept the rate is .998 (whole minus kept +.002 [-.001, +.005]) and with them cut and closed .999, but then .33
    instead of .76 of the answers are right: a greedy answer follows the half that ends. A4-truncation: contradicted.
"""

from __future__ import annotations

from harness.spec import Arm, Axis, Claim, Contrast, Sweep, Term

SUPERVISED = "data.train_on_end_of_turn"
ENDED = "pocket/question_unasked/end_of_turn"


def _ended(arm: str, weight: float, *, supervised: bool = True) -> Term:
    return Term(metric=ENDED, at=((SUPERVISED, supervised),), weight=weight, arm=arm)


SWEEP = Sweep(
    name="claim_a4_end_of_turn",
    hypothesis="Without loss on the end of turn no answer ends; truncated rows that are kept cost the rate their share",
    refuted_if="Answers still end without supervision, or half the rows truncated cost less than a fifth of the rate.",
    source="open-instruct's notes on truncation; no published numbers",
    axes=(Axis(field=SUPERVISED, values=(True, False)),),
    arms=(
        Arm(name="whole", hold="epochs"),
        Arm(name="kept", hold="epochs", set=(("data.source.truncated_share", 0.5),)),
        Arm(
            name="closed",
            hold="epochs",
            set=(("data.source.truncated_share", 0.5), ("data.source.truncated_rows", "terminate")),
        ),
    ),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "format"),
    claims=(
        Claim(
            id="A4",
            statement="An end of turn outside the loss is never learned.",
            source="teaching material",
            published="none",
            parts=(
                Contrast(
                    terms=(_ended("whole", 1.0), _ended("whole", -1.0, supervised=False)), expect="greater", margin=0.5
                ),
                Contrast(terms=(_ended("whole", 1.0, supervised=False),), expect="equal", margin=0.05),
            ),
        ),
        Claim(
            id="A4-truncation",
            statement="Truncated rows that are kept lower the rate of answers that end; closed ones do not.",
            source="open-instruct's notes on truncation",
            published="none",
            parts=(
                Contrast(terms=(_ended("whole", 1.0), _ended("kept", -1.0)), expect="greater", margin=0.2),
                Contrast(terms=(_ended("whole", 1.0), _ended("closed", -1.0)), expect="equal", margin=0.05),
            ),
        ),
    ),
)
