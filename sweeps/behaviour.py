"""What do the loss mask and a supervised end of turn do to the look of answers?

Hypothesis: claim A5: a model trained on prompts as well writes users' turns and repeats prompts, and answers run on
    where the end of turn carries no loss. Claim A1's mechanism: loss on prompts lowers the share of an answer that
    stands in a training target. Claim F6: what is trained in chat takes the place of going on with prose.
Refuted if: without the mask role leaks are no more frequent, or answers copy as much of the targets as with it.
Source: teaching material on instruction tuning, without numbers; Shi et al. (arXiv:2405.14394): overlap with the
    training targets falls without the mask on 7 of 7 sets.
Command: make sweep NAME=behaviour BASE=pocket_panel PANEL=full
Design: the prompt carries the full loss or none; the end of turn is in the loss or not. Rows of several turns are
    among the training rows. Whatever is no answer weighs as the prompt does, so without the mask the end is supervised
    either way: those two conditions are the same computation, and a control. Steps and rows are equal; loss tokens are
    not, and the report says so. On another base a panel shows only where a task has one (`EvalTask.panel`).
Cost: 2 x 2 conditions x 3 seeds = 12 trials, one to two minutes each on one core.
Measured on the pocket world (full fine-tuning, 3 seeds; of the fourth condition one, whose numbers are those of the
    third), questions about unasked people: role leaks .003 without the mask (.007 after several turns, always a
    further question of the user's), none with it. Prompt copies .45 and .45, copies of training targets .71 and .71:
    not fewer without the mask. With the mask and no supervised end no answer ends its turn: most end the document, .35
    run on (none where the end is supervised), and .53 instead of .79 are right. Without the mask prose suffers: of the
    requests to go on with a text .91 are likelier met with an answer to nobody's question (.44 with the mask, .01
    before), of raw prose .20 (.00, .00), at .53 instead of .33 bits per byte. With three words in ten misspelled .36
    instead of .79 are right, with the mask. Role leaks come as expected, but are rare; of copies the hypothesis is
    refuted here.
"""

from __future__ import annotations

from harness.spec import Axis, Sweep

SWEEP = Sweep(
    name="behaviour",
    hypothesis=(
        "Without the loss mask role leaks and prompt copies rise and answers copy less of the training targets; "
        "without a supervised end answers run on."
    ),
    refuted_if=("Without the mask role leaks are no more frequent, or answers copy as much of the targets as with it."),
    source="teaching material on instruction tuning; Shi et al., arXiv:2405.14394",
    axes=(
        Axis(field="data.prompt_loss_weight", values=(0.0, 1.0)),
        Axis(field="data.train_on_end_of_turn", values=(True, False)),
    ),
    seeds=(0, 1, 2),
    measures=("learned", "retained", "format", "fluency"),
)
