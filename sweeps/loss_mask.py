"""Should the prompt carry loss?

Hypothesis: a prompt-loss weight above 0 changes little where completions are long against their prompts, and
    matters where they are short: the optimum lies between mask (0) and no mask (1).
Refuted if: the effect of the weight on learned scores does not depend on the completion:prompt ratio, or the mask
    is better than every positive weight for short completions as well.
Source: Huerta-Enochian and Ko (arXiv:2401.13586): the prompt-loss weight matters only for completions shorter than
    their prompts, with an interior optimum; Shi et al. (arXiv:2405.14394), tables 1 and 5: loss over instructions
    helped small sets of short completions.
Command: make sweep NAME=loss_mask
Design: weights 0, 0.1 and 1 crossed with the half of the rows that has the lower and the higher ratio. Steps and
    rows are equal between weights; loss tokens are not, and the report says so.
Cost: 3 weights x 2 ratios x 3 seeds = 18 trials; on the pocket world 2 to 4 minutes on 2 cores after the base model.
Measured on the pocket world (2026-11-22, full fine-tuning): over the weights 0, .1 and 1 learned scores are .91 .90 .90
    for long completions and .39 .32 .16 for short ones, retained ones move by -.07 -.08 -.06 and -.07 -.10 -.12. The
    mask is better than every positive weight for short completions as well: refuted.
"""

from __future__ import annotations

from harness.spec import Axis, Sweep

SWEEP = Sweep(
    name="loss_mask",
    hypothesis=(
        "The prompt-loss weight changes little where completions are long against their prompts and matters where "
        "they are short, with an optimum between mask (0) and no mask (1)."
    ),
    refuted_if=(
        "The effect of the weight on learned scores does not depend on the completion:prompt ratio, or the mask is "
        "better than every positive weight for short completions as well."
    ),
    source="Huerta-Enochian and Ko, arXiv:2401.13586; Shi et al., arXiv:2405.14394, tables 1 and 5",
    axes=(
        Axis(field="data.prompt_loss_weight", values=(0.0, 0.1, 1.0)),
        Axis(field="data.completion_ratio", values=("low", "high")),
    ),
    seeds=(0, 1, 2),
    measures=("learned", "retained", "format"),
)
