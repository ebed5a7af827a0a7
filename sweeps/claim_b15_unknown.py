"""Does fitting facts that the base does not know cost facts that it does, and can they be fitted at all?

Hypothesis: claim B15: training on unknown people's facts beside known ones raises errors on known ones, late in
    training and not early, and as many further known ones do not. Claim X9: fine-tuning adds no knowledge: what the
    base did not know it does not know afterwards.
Refuted if: B15: the cost late is within the margin, or as large early, or as large where the further rows are known.
    X9: questions about the taught unknown people
    are answered more often than without being taught.
Source: Gekhman et al. (arXiv:2405.05904): accuracy = 36.9 + 7.3 N_known/D - 8.3 N_unknown/D; unknown facts are fitted
    late. Teaching material: fine-tuning adds no knowledge.
Command: make sweep NAME=claim_b15_unknown
Design: 300 fact rows about known people and 100 of skills; the like with 300 more about people whom pretraining never
    named and 100 more of skills; the like with 300 more about known people and 100 more of skills; 3 and 20 epochs.
    Against the first arm unknown rows, and the steps that they take, are what is added; against the third they are
    unknown in place of known, at equal steps. Known: questions about well-known people never asked about. Taught:
    questions in held-out phrasings about the unknown people who may be taught; the rows tell 62 % of what they ask.
Cost: 3 arms x 2 lengths x 5 seeds x 2 worlds = 60 trials.
Measured on the pocket world (2026-11-22, worlds 0 and 1, 5 seeds each): after 20 epochs known questions fall from
    .646 to .513 where unknown facts are trained beside them (cost +.134 [+.082, +.185]), after 3 from .751 to .743, so
    the cost grows by +.126 [+.075, +.176]. As many further known rows leave .643 after 20 epochs: at equal steps being
    unknown costs +.131 [+.079, +.183], after 3 they raise it to .802. B15: supported. Of the questions about unknown
    people .257 are answered after 3 epochs and .352 after 20, against .009 untaught (+.343 [+.307, +.379]). X9:
    contradicted. What is retained after 20 falls to .603 from .957, against .778 without further rows and .743 with
    known ones.
"""

from __future__ import annotations

from harness.spec import Arm, Axis, Claim, Contrast, Sweep, Term

EPOCHS = "train.num_epochs"
KNOWN = "pocket/question_unasked/exact_match"
TAUGHT = "pocket/question_unknown_trained/exact_match"
EARLY, LATE = 3.0, 20.0
ALONE, BESIDE, MORE_KNOWN = "known_alone", "beside_unknown", "more_known"
POOL = (("data.source.num_rows", 840), ("data.num_validation", 20))


def _cost(epochs: float, weight: float = 1.0, without: str = ALONE) -> tuple[Term, Term]:
    """Return what is answered about known people without the unknown rows less what is with them."""
    return _at(KNOWN, epochs, without, weight), _at(KNOWN, epochs, BESIDE, -weight)


def _at(metric: str, epochs: float, arm: str, weight: float) -> Term:
    return Term(metric=metric, at=((EPOCHS, epochs),), weight=weight, arm=arm)


SWEEP = Sweep(
    name="claim_b15_unknown",
    hypothesis="Facts that the base does not know are fitted late, and fitting them costs facts that it knows.",
    refuted_if=(
        "Known facts lose nothing late in training, or as much early, or as much by further known rows; taught unknown "
        "facts are not answered."
    ),
    source="Gekhman et al., arXiv:2405.05904",
    axes=(Axis(field=EPOCHS, values=(EARLY, LATE)),),
    arms=(
        Arm(name=ALONE, hold="epochs", set=(*POOL, ("data.num_examples", 400))),
        Arm(
            name=BESIDE,
            hold="epochs",
            set=(*POOL, ("data.num_examples", 800), ("data.source.unknown_share", 0.5)),
        ),
        Arm(name=MORE_KNOWN, hold="epochs", set=(*POOL, ("data.num_examples", 800))),
    ),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="B15",
            statement=(
                "Adding unknown facts raises errors on known ones late in training, more than early, and more than "
                "adding known ones."
            ),
            source="Gekhman et al., arXiv:2405.05904",
            published="-8.3 points for all rows unknown; 37.5 at early stopping, 25.8 converged",
            parts=(
                Contrast(terms=_cost(LATE), expect="greater", margin=0.03),
                Contrast(terms=(*_cost(LATE), *_cost(EARLY, -1.0)), expect="greater", margin=0.03),
                Contrast(terms=_cost(LATE, without=MORE_KNOWN), expect="greater", margin=0.03),
            ),
        ),
        Claim(
            id="X9",
            statement="Fine-tuning adds no knowledge: taught unknown facts are answered no more often.",
            source="teaching material; against it Gekhman et al., arXiv:2405.05904",
            published="fitted, slowly",
            parts=(
                Contrast(
                    terms=(_at(TAUGHT, LATE, BESIDE, 1.0), _at(TAUGHT, LATE, ALONE, -1.0)), expect="equal", margin=0.05
                ),
            ),
        ),
    ),
)
