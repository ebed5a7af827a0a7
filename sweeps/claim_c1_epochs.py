"""Does the target peak while forgetting keeps growing?

Hypothesis: claim C1: over more and more epochs the target score peaks, and what the base knew keeps declining.
    Claim C5: what is retained lies on a straight line against the fine-tuning loss.
Refuted if: C1: the target does not fall from 8 to 16 epochs, or what is retained does not fall from 4 to 16. C5: R^2
    below .8.
Source: Biderman et al. (arXiv:2405.09673), tables S5 and S6: full fine-tuning on code, HumanEval .302 .464 .470 .497
    .416 and the forgetting average .595 .579 .512 .446 .414 over 1, 2, 4, 8, 16 epochs. Kalajdzievski
    (arXiv:2401.05605): over ranks and steps L_f = -1.73 L_ft + 2.05, R^2 .945 and .974.
Command: make sweep NAME=claim_c1_epochs
Design: each number of epochs is a run of its own with its whole learning-rate decay. Fine-tuning loss: on validation
    rows.
Cost: 5 lengths x 5 seeds x 2 worlds = 50 trials.
Measured on the pocket world (2026-11-22, worlds 0 and 1, 5 seeds each): over 1, 2, 4, 8 and 16 epochs learned scores
    are .275 .637 .856 .840 .774 and retained ones .924 .912 .891 .852 .804 (base .957). From 8 to 16 epochs learned
    moves by -.066 [-.081, -.051], from 4 to 16 retained by -.087 [-.108, -.066]. C1: supported, with its peak nearer
    to 4 epochs. Against the validation loss what is retained has R^2 .39 [.33, .45] with a rising slope: it goes on
    falling where the loss has stopped. C5: contradicted; declared first over learning rates, where R^2 was .12.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Contrast, Line, Quantity, Sweep, Term, difference

EPOCHS = "train.num_epochs"


def _change(metric: str, first: float, last: float) -> tuple[Term, Term]:
    return difference(metric, {EPOCHS: last}, {EPOCHS: first})


SWEEP = Sweep(
    name="claim_c1_epochs",
    hypothesis="Over more and more epochs the target peaks, and what the base knew keeps declining.",
    refuted_if="The target does not fall from 8 to 16 epochs, or retained scores do not fall from 4 to 16.",
    source="Biderman et al., arXiv:2405.09673, tables S5 and S6",
    axes=(Axis(field=EPOCHS, values=(1.0, 2.0, 4.0, 8.0, 16.0)),),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="C1",
            statement="The target rises to 8 epochs and falls to 16; what is retained falls from 4 to 16.",
            source="Biderman et al., arXiv:2405.09673, tables S5 and S6",
            published="HumanEval .302 .464 .470 .497 .416; forgetting average .595 .579 .512 .446 .414",
            parts=(
                Contrast(terms=_change("learned", 1.0, 8.0), expect="greater", margin=0.03),
                Contrast(terms=_change("learned", 8.0, 16.0), expect="less", margin=0.01),
                Contrast(terms=_change("retained", 4.0, 16.0), expect="less", margin=0.03),
            ),
        ),
        Claim(
            id="C5",
            statement="Over ever longer training what is retained lies on a rising line against the fine-tuning loss.",
            source="Kalajdzievski, arXiv:2401.05605",
            published="L_f = -1.73 L_ft + 2.05 (R^2 .945), -1.06 L_ft + 3.13 (.974)",
            parts=(
                Line(
                    x=Quantity(metric="val_loss"),
                    y=Quantity(metric="retained"),
                    min_r2=0.8,
                    slope="positive",
                ),
            ),
        ),
    ),
)
