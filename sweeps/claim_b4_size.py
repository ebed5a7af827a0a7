"""Is the format learned from about a hundred examples, and what keeps rising after that?

Hypothesis: claim B1: with homogeneous prompts quality rises and then stays: the last doubling of examples adds nothing.
    Claim B4: the format saturates at about a hundred examples, right answers keep rising.
Refuted if: B1: the last doubling adds more than the margin. B4: the format still gains more than the margin from 100
    examples on, or right answers gain less than that.
Source: Zhou et al., LIMA (arXiv:2305.11206), section 5: flat from 2 000 to 32 000; Raghavendra et al.
    (arXiv:2410.03717): style saturates within 100 to 1 000 examples, a skill follows a power law.
Command: make sweep NAME=claim_b4_size
Design: nested subsets at equal steps, so that size alone varies. Format: answers that end as a turn does. Quality:
    exact match on questions about people never asked about; for B4 that is the skill, since it takes finding the person
    and the attribute. Skills of 50 rows and fewer, as reversing a list, are not learned in chat at any of these sizes.
Cost: 6 sizes x 5 seeds x 2 worlds = 60 trials.
Measured on the pocket world (2026-11-22, worlds 0 and 1, 5 seeds each): over 25 to 800 examples right answers are
    .143 .350 .536 .679 .761 .796, and .994 to 1.000 of the answers end. The last doubling adds +.035 [+.012, +.058],
    neither nothing nor the margin of .05. B1: undecided. From 100 examples on the form gains +.000 [-.016, +.017],
    right answers +.260 [+.209, +.312]. B4: supported.
"""

from __future__ import annotations

from harness.spec import Arm, Axis, Claim, Contrast, Sweep, Term, difference

SIZE = "data.num_examples"
SIZES = (25, 50, 100, 200, 400, 800)


def _gain(metric: str, first: int, last: int) -> tuple[Term, Term]:
    return difference(metric, {SIZE: last}, {SIZE: first})


SWEEP = Sweep(
    name="claim_b4_size",
    hypothesis="The format is learned from about a hundred examples; right answers rise further and then stay.",
    refuted_if="The last doubling still adds quality, or the format gains and right answers do not from 100 on.",
    source="Zhou et al., arXiv:2305.11206, section 5; Raghavendra et al., arXiv:2410.03717",
    axes=(Axis(field=SIZE, values=SIZES),),
    arms=(Arm(name="equal_steps", hold="steps"),),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="B1",
            statement="With homogeneous prompts the last doubling of examples adds no quality.",
            source="Zhou et al., arXiv:2305.11206, section 5",
            published="flat from 2 000 to 32 000 examples",
            parts=(
                Contrast(terms=_gain("pocket/question_unasked/exact_match", 400, 800), expect="equal", margin=0.05),
            ),
        ),
        Claim(
            id="B4",
            statement="From 100 examples on the format gains nothing and right answers still rise.",
            source="Raghavendra et al., arXiv:2410.03717",
            published="format saturates at about 100; skill is a D^(1/b) with b 7.7 to 21",
            parts=(
                Contrast(terms=_gain("pocket/question_unasked/end_of_turn", 100, 800), expect="equal", margin=0.05),
                Contrast(terms=_gain("pocket/question_unasked/exact_match", 100, 800), expect="greater", margin=0.05),
            ),
        ),
    ),
)
