"""Is the learning rate the knob of forgetting, and is LoRA another trade or the same one a decade higher?

Hypothesis: claim C4: a learning rate at a third of the reference forgets less at a comparable target, and past the
    reference forgetting rises faster than learning.
    Claim D1: LoRA learns less and forgets less, each method at its own reference rate.
    Claim D3: LoRA's best learning rate is about ten times full fine-tuning's.
Refuted if: C4: the lower rate forgets as much, or learns another amount, or above the reference less is forgotten than
    learned. D1: LoRA learns as much or forgets as much. D3: the ratio's interval lies outside 5 to 20.
Source: Lin et al. (arXiv:2509.20758); Biderman et al. (arXiv:2405.09673); Schulman et al., LoRA Without Regret (2025):
    ratio 9.8 over 14 models.
Command: make sweep NAME=claim_c4_rate
Design: both methods over two decades around the reference that the experiment states for each. Forgetting: what is lost
    of the cloze score of people never asked about.
Cost: 2 methods x 5 rates x 5 seeds x 2 worlds = 100 trials.
Measured on the pocket world (2026-11-21, worlds 0 and 1, 5 seeds each): over a tenth to ten times the reference full
    fine-tuning learns .143 .532 .881 .644 .245 and retains .948 .933 .878 .585 .132 (base .959); LoRA learns .180
    .685 .854 .535 .000 and retains .944 .913 .796 .387 .082. C4: contradicted; a third of the rate retains +.055
    [+.037, +.073], but learns -.349 [-.384, -.315] in the same epochs; above the reference both fall (+.530 [+.477,
    +.583]). D1: contradicted; LoRA learns less (+.027 [+.008, +.045]) and retains less (-.082 [-.103, -.060]) at its
    reference, the best rate of its grid. D3: supported; the best rates are 7.5 [6.9, 8.1] apart.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Contrast, OptimumRatio, Sweep, Term

METHOD, RATE = "method", "train.learning_rate"


def _term(metric: str, rate: float, weight: float, method: str = "full") -> Term:
    return Term(metric=metric, at=((METHOD, method), (RATE, rate)), weight=weight)


SWEEP = Sweep(
    name="claim_c4_rate",
    hypothesis="The learning rate sets what is forgotten; LoRA's lies a decade higher and forgets less.",
    refuted_if="A lower rate forgets as much, LoRA forgets as much, or both methods share their best rate.",
    source=(
        "Lin et al., arXiv:2509.20758; Biderman et al., arXiv:2405.09673; Schulman et al., LoRA Without Regret (2025)"
    ),
    axes=(
        Axis(field=METHOD, values=("full", "lora")),
        Axis(field=RATE, values=(0.1, 0.3, 1.0, 3.0, 10.0), relative_to="reference_learning_rate"),
    ),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="C4",
            statement="A third of the rate forgets less at a comparable target; above it, forgetting outruns learning.",
            source="Lin et al., arXiv:2509.20758",
            published="a smaller rate substantially mitigates forgetting at a comparable target",
            parts=(
                Contrast(
                    terms=(_term("retained", 0.3, 1.0), _term("retained", 1.0, -1.0)), expect="greater", margin=0.01
                ),
                Contrast(terms=(_term("learned", 0.3, 1.0), _term("learned", 1.0, -1.0)), expect="equal", margin=0.10),
                Contrast(
                    terms=(
                        _term("retained", 1.0, 1.0),
                        _term("retained", 3.0, -1.0),
                        _term("learned", 1.0, 1.0),
                        _term("learned", 3.0, -1.0),
                    ),
                    expect="greater",
                    margin=0.03,
                ),
            ),
        ),
        Claim(
            id="D1",
            statement="LoRA learns less and forgets less, each method at its reference rate.",
            source="Biderman et al., arXiv:2405.09673",
            published="HumanEval .498 against .497 with a forgetting average of .631 against .446",
            parts=(
                Contrast(
                    terms=(_term("learned", 1.0, 1.0), _term("learned", 1.0, -1.0, "lora")),
                    expect="greater",
                    margin=0.03,
                ),
                Contrast(
                    terms=(_term("retained", 1.0, 1.0, "lora"), _term("retained", 1.0, -1.0)),
                    expect="greater",
                    margin=0.01,
                ),
            ),
        ),
        Claim(
            id="D3",
            statement="LoRA's best learning rate is about ten times full fine-tuning's.",
            source="Schulman et al., LoRA Without Regret (2025)",
            published="9.8 over 14 models; about 15 below 100 steps",
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
            ),
        ),
    ),
)
