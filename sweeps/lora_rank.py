"""How much rank does LoRA need, and does alpha/rank let it change without a new learning rate?

Hypothesis: on a small instruction set the learned score is flat in rank once a few ranks are there, under both
    scalings; under alpha/sqrt(rank) high ranks take larger steps and forget more.
Refuted if: learned scores rise by more than their interval from rank 4 to the largest rank at alpha/rank, or the
    two scalings retain the same at the largest rank.
Source: Hu et al. (arXiv:2106.09685), section 7.2; Kalajdzievski, rank stabilisation (arXiv:2312.03732); Schulman et
    al., LoRA Without Regret: with a fixed alpha the optimum rate moves by less than 2 from rank 4 to 512.
Command: make sweep NAME=lora_rank
Design: alpha and the learning rate stay at the experiment's values for LoRA; the two scalings are equal at rank 1.
Cost: 4 ranks x 2 scalings x 3 seeds = 24 trials; on the pocket world 3 to 5 minutes on 2 cores after the base model.
Measured on the pocket world (2026-11-22): at ranks 1, 4, 16 and 64 learned scores are .76 .83 .86 .88 under alpha/rank
    and .76 .75 .62 .41 under alpha/sqrt(rank); retained ones move by -.27 -.19 -.15 -.12 and by -.27 -.30 -.42 -.62.
    The rise of .06 from rank 4 to 64 is more than intervals here (.03 either way): refuted. Under alpha/sqrt(rank)
    high ranks do forget more, and learn less, at an unchanged learning rate.
"""

from __future__ import annotations

from harness.spec import Axis, Sweep

SWEEP = Sweep(
    name="lora_rank",
    hypothesis=(
        "The learned score is flat in rank once a few ranks are there, under both scalings; under alpha/sqrt(rank) "
        "high ranks forget more."
    ),
    refuted_if=(
        "Learned scores rise by more than their interval from rank 4 to the largest rank at alpha/rank, or the two "
        "scalings retain the same at the largest rank."
    ),
    source="Hu et al., arXiv:2106.09685, section 7.2; Kalajdzievski, arXiv:2312.03732; Schulman et al. (2025)",
    axes=(
        Axis(field="method.rank", values=(1, 4, 16, 64)),
        Axis(field="method.rank_scaling", values=("alpha_over_rank", "alpha_over_sqrt_rank")),
    ),
    set=(("method", "lora"),),
    seeds=(0, 1, 2),
    measures=("learned", "retained"),
)
