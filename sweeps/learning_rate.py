"""Where is each method's learning rate, and what does a step away from it cost?

Hypothesis: LoRA's best learning rate lies about one decade above full fine-tuning's, and past a method's optimum
    what is forgotten grows faster than what is learned.
Refuted if: the best multiples of both methods' references coincide in absolute learning rate, or retained scores do
    not fall from one half-decade to the next above the optimum.
Source: Schulman et al., LoRA Without Regret (thinkingmachines.ai/blog/lora): ratio 9.8 over 14 models; Biderman et
    al. (arXiv:2405.09673); Lin et al. (arXiv:2509.20758): a smaller rate mitigates forgetting at a comparable
    target.
Command: make sweep NAME=learning_rate
Design: both methods over two decades around the reference that the experiment states for each. The best rate is read
    on val items, in the report's section on best rates; write it into the base's experiment with `found_by`.
Cost: 2 methods x 5 rates x 3 seeds = 30 trials; on the pocket world 4 to 5 minutes on 2 cores after the base model.
Measured on the pocket world (2026-11-22): learned scores peak at 9e-5 for full fine-tuning (.90) and at 9e-4 for LoRA
    (.91), ten times as much. Retained scores move by -.02 and -.05 there, by -.07 and -.18 one step above (learned .86
    and .84), by -.36 and -.51 two steps above and by -.80 and -.87 three steps above, where learned scores fall as
    well. The hypothesis holds.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Monotone, OptimumRatio, Sweep

METHOD, RATE = "method", "train.learning_rate"

SWEEP = Sweep(
    name="learning_rate",
    hypothesis=(
        "LoRA's best learning rate lies about one decade above full fine-tuning's, and past a method's optimum what"
        " is forgotten grows faster than what is learned."
    ),
    refuted_if=(
        "The best rates of both methods coincide, or retained scores do not fall from one half-decade to the next "
        "above the optimum."
    ),
    source=(
        "Schulman et al., LoRA Without Regret (2025); Biderman et al., arXiv:2405.09673; Lin et al., arXiv:2509.20758"
    ),
    axes=(
        Axis(field=METHOD, values=("full", "lora")),
        Axis(field=RATE, values=(0.1, 0.3, 1.0, 3.0, 10.0), relative_to="reference_learning_rate"),
    ),
    seeds=(0, 1, 2),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="D3-rates",
            statement="LoRA's best rate is about ten times full fine-tuning's; with both, a higher rate forgets more.",
            source="Schulman et al., LoRA Without Regret (2025); Lin et al., arXiv:2509.20758",
            published="9.8 over 14 models; about 15 below 100 steps",
            published_value=9.8,
            published_unit="ratio of best learning rates",
            parts=(
                OptimumRatio(
                    metric="learned",
                    axis=RATE,
                    between=METHOD,
                    numerator="lora",
                    denominator="full",
                    low=5.0,
                    high=20.0,
                ),
                *(
                    Monotone(metric="retained", axis=RATE, at=((METHOD, kind),), expect="falling", margin=0.3)
                    for kind in ("full", "lora")
                ),
            ),
        ),
    ),
)
