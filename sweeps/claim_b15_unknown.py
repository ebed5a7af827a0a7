"""Does fitting facts that the base does not know cost facts that it does, and can they be fitted at all?

Hypothesis: claim B15: training on unknown people's facts raises errors on known ones, late in training and not early.
    Claim X9: fine-tuning adds no knowledge: what the base did not know it does not know afterwards.
Refuted if: B15: the cost is within the margin, or as large early as late. X9: questions about the taught unknown
    people are answered more often than without being taught.
Source: Gekhman et al. (arXiv:2405.05904): accuracy = 36.9 + 7.3 N_known/D - 8.3 N_unknown/D; unknown facts are fitted
    late. Teaching material: fine-tuning adds no knowledge.
Command: make sweep NAME=claim_b15_unknown
Design: none or half of the fact rows about people whom pretraining never named, 3 and 20 epochs, equal rows and steps.
    Known: questions about well-known people never asked about, and their cloze. Taught: questions about the unknown
    people of the training rows, in other phrasings drawn alike.
Cost: 2 shares x 2 lengths x 5 seeds x 2 worlds = 40 trials.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Contrast, Sweep, Term, difference

SHARE, EPOCHS = "data.source.unknown_share", "train.num_epochs"
KNOWN = "pocket/question_unasked/exact_match"
TAUGHT = "pocket/question_unknown_trained/exact_match"
EARLY, LATE = 3.0, 20.0


def _cost(metric: str, epochs: float, weight: float = 1.0) -> tuple[Term, Term]:
    return difference(metric, {SHARE: 0.0, EPOCHS: epochs}, {SHARE: 0.5, EPOCHS: epochs}, weight=weight)


SWEEP = Sweep(
    name="claim_b15_unknown",
    hypothesis="Facts that the base does not know are fitted late, and fitting them costs facts that it knows.",
    refuted_if="Known facts lose nothing late in training, or as much early; taught unknown facts are not answered.",
    source="Gekhman et al., arXiv:2405.05904",
    axes=(Axis(field=SHARE, values=(0.0, 0.5)), Axis(field=EPOCHS, values=(EARLY, LATE))),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="B15",
            statement="Training on unknown facts raises errors on known ones, late and not early.",
            source="Gekhman et al., arXiv:2405.05904",
            published="-8.3 points for all rows unknown; 37.5 at early stopping, 25.8 converged",
            parts=(
                Contrast(terms=_cost(KNOWN, LATE), expect="greater", margin=0.03),
                Contrast(terms=(*_cost(KNOWN, LATE), *_cost(KNOWN, EARLY, -1.0)), expect="greater", margin=0.03),
            ),
        ),
        Claim(
            id="X9",
            statement="Fine-tuning adds no knowledge: taught unknown facts are answered no more often.",
            source="teaching material; against it Gekhman et al., arXiv:2405.05904",
            published="fitted, slowly",
            parts=(Contrast(terms=_cost(TAUGHT, LATE, -1.0), expect="equal", margin=0.05),),
        ),
    ),
)
