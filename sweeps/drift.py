"""Does the distance from the base on the new task say how much was forgotten?

Hypothesis: claim E7: over methods and learning rates, forgetting lies on one rising line in KL(base || tuned) on the
    new task, whatever the method.
Refuted if: KL explains less than half of the variance of forgetting, or more KL goes with less forgetting.
Source: RL's Razor (arXiv:2509.04259): a quadratic in KL has R2 .96 on ParityMNIST and .71 on Qwen2.5-3B; against it
    arXiv:2510.18874: r = .52.
Command: make sweep NAME=drift
Design: full fine-tuning and LoRA, each at four learning rates around its reference; drift on 64 texts a set. KL is
    measured on the base's own greedy answers to validation prompts, L_f beside it on val items of raw prose.
Cost: 2 methods x 4 rates x 5 seeds = 40 trials.
Measured on the pocket world (2026-11-29, 3 of the 5 seeds, too few for a verdict): over 24 trials a line in KL on the
    new task has R2 .96 for full fine-tuning and LoRA together, one in L_f .88: from the base's .62 that moves to .66
    only, until a tenth is forgotten. KL is .61 to 5.64 and forgetting .02 to .80 with full fine-tuning, 1.59 to 6.01
    and .05 to .87 with LoRA, whose weights move farther (||dW||/||W|| .12 to 5.5 against .03 to .37) in fewer ways
    (stable rank 1.4 to 2.7 against 4.1 to 12.2). At the mildest rate the first five tokens of the base's answers carry
    2.4 nats each, the rest .2.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Line, Quantity, Sweep

KL = Quantity(metric="drift/base_answers/kl_base_tuned")
ARGMAX_LOSS = Quantity(metric="drift/neutral/argmax_loss")
CHANGE = Quantity(metric="retained", value="delta")

SWEEP = Sweep(
    name="drift",
    hypothesis="Forgetting lies on one rising line in KL(base || tuned) on the new task, whatever the method.",
    refuted_if="KL explains less than half of the variance of forgetting, or more KL goes with less forgetting.",
    source="RL's Razor, arXiv:2509.04259; against it arXiv:2510.18874",
    axes=(
        Axis(field="method", values=("full", "lora")),
        Axis(field="train.learning_rate", values=(0.3, 1.0, 3.0, 10.0), relative_to="reference_learning_rate"),
    ),
    seeds=(0, 1, 2, 3, 4),
    measures=("learned", "retained", "fluency"),
    set=(("probes.drift", "on"),),
    claims=(
        Claim(
            id="E7",
            statement="KL(base || tuned) on the new task predicts forgetting, over methods and learning rates.",
            source="RL's Razor, arXiv:2509.04259",
            published="quadratic R2 .96 (ParityMNIST), .71 (Qwen2.5-3B); r = .52 (arXiv:2510.18874)",
            parts=(Line(x=KL, y=CHANGE, min_r2=0.5, slope="negative"),),
        ),
        Claim(
            id="E7-L_f",
            statement="The loss on the base's arg-max on neutral text predicts forgetting.",
            source="Kalajdzievski, arXiv:2401.05605",
            published="a line in the fine-tuning loss has R2 .945 and .974",
            parts=(Line(x=ARGMAX_LOSS, y=CHANGE, min_r2=0.5, slope="negative"),),
        ),
    ),
)
