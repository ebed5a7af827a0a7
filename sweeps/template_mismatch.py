"""What does it cost to be asked in another template than one was trained in?

Hypothesis: a model trained in one template and asked in another loses most of what it learned; asked in its own with a
    space, a line break, another name for the assistant or without its system turn it loses little, and less where it
    was trained in ChatML, whose markers are tokens, than in Alpaca, whose markers are text.
Refuted if: asked in the other template it learns within .05 of asked in its own, or one of the four edits costs more
    than half of what the other template costs.
Source: teaching material on template mismatch; Sclar et al. (arXiv:2310.11324): spreads of up to 76 points of accuracy
    between formats of a prompt that differ in separators and spaces, for models that are not fine-tuned on one.
Command: make sweep NAME=template_mismatch
Design: training template ChatML or Alpaca, each with a system turn, asked as trained; in ChatML, in Alpaca and in plain
    text, that is without a template; and as trained but for one edit. The arm that names the training template again is
    a control: it must score as the first. Steps and rows are equal.
Cost: 2 templates x 8 arms x 3 seeds = 48 trials.
Measured on the pocket world (2026-11-22, 896 items, in brackets the half width of the interval): asked as trained .859
    (.036) are right in ChatML and .863 (.034) in Alpaca, and the very same where the arm names that template. In the
    other template .038 (.056) and .091 (.157), in plain text .158 and .144 (.05 both). A line break more costs .007 and
    .025, another name for the assistant .025 and .003, no system turn .111 and .043. A space more costs .398 and .657,
    by seed more or less (intervals of .32 and .17): in Alpaca over half of what the other template costs, and by that
    alone refuted. ChatML is hurt less by the space and more by the name and the missing turn: no template is safer.
"""

from __future__ import annotations

from harness.spec import Arm, Axis, Sweep

ASKED, EDIT = "evals.template", "evals.template_edit"
AS_TRAINED = "as_trained"

SWEEP = Sweep(
    name="template_mismatch",
    hypothesis=(
        "Asked in another template than it was trained in, a model loses most of what it learned; a space, a line "
        "break, another name for the assistant or a missing system turn cost little, in ChatML less than in Alpaca."
    ),
    refuted_if=(
        "The other template costs less than .05, or one of the four edits more than half of what the other template "
        "costs."
    ),
    source="teaching material on template mismatch; Sclar et al., arXiv:2310.11324",
    axes=(Axis(field="data.template", values=("chatml", "alpaca")),),
    arms=(
        Arm(name=AS_TRAINED, hold="epochs"),
        Arm(name="in_chatml", hold="epochs", set=((ASKED, "chatml"),)),
        Arm(name="in_alpaca", hold="epochs", set=((ASKED, "alpaca"),)),
        Arm(name="in_plain_text", hold="epochs", set=((ASKED, "plain"),)),
        Arm(name="space", hold="epochs", set=((EDIT, "space"),)),
        Arm(name="newline", hold="epochs", set=((EDIT, "newline"),)),
        Arm(name="renamed_tag", hold="epochs", set=((EDIT, "renamed_tag"),)),
        Arm(name="no_system", hold="epochs", set=((EDIT, "no_system"),)),
    ),
    set=(("data.system_turn", "Answer the question."),),
    seeds=(0, 1, 2),
    measures=("learned", "format"),
)
