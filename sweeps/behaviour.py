"""What do the loss mask and a supervised end of turn do to the look of answers?

Hypothesis: claim A5: a model trained on prompts as well writes users' turns and repeats prompts where nothing stops it,
    so role leaks and prompt copies rise without the mask, and only where the end of turn carries no loss. Loss on
    prompts lowers the share of an answer that stands in a training target (claim A1's mechanism).
Refuted if: role leaks do not differ between mask and no mask without a supervised end, or they rise with one.
Source: teaching material on instruction tuning, without numbers; Shi et al. (arXiv:2405.14394): overlap with the
    training targets falls without the mask on 7 of 7 sets.
Command: make sweep NAME=behaviour BASE=pocket_panel PANEL=full
Design: the prompt carries the full loss or none; the end of turn is in the loss or not. Rows of several turns are among
    the training rows. Steps and rows are equal; loss tokens are not, and the report says so. On another base the sweep
    runs as well, but shows a panel only where a task has one (`EvalTask.panel`).
Cost: 2 x 2 conditions x 3 seeds = 12 trials, about two minutes each on one busy core.
"""

from __future__ import annotations

from harness.spec import Axis, Sweep

SWEEP = Sweep(
    name="behaviour",
    hypothesis=(
        "Without the loss mask role leaks and prompt copies rise, but only where the end of turn carries no loss; "
        "answers then copy less of the training targets."
    ),
    refuted_if=(
        "Role leaks do not differ between mask and no mask without a supervised end of turn, or they rise with one."
    ),
    source="teaching material on instruction tuning; Shi et al., arXiv:2405.14394",
    axes=(
        Axis(field="data.prompt_loss_weight", values=(0.0, 1.0)),
        Axis(field="data.train_on_end_of_turn", values=(True, False)),
    ),
    seeds=(0, 1, 2),
    measures=("learned", "retained", "format", "fluency"),
)
