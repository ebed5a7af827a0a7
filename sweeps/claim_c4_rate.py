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
Measured on the pocket world (2026-11-22, worlds 0 and 1, 5 seeds each): over a tenth to ten times the reference full
    fine-tuning learns .280 .801 .855 .580 .208 and retains .946 .929 .875 .570 .139 (base .957); LoRA learns .324
    .873 .826 .485 .000 and retains .928 .908 .773 .390 .080. C4: supported; a third of the rate retains +.054
    [+.039, +.070] and learns -.054 [-.083, -.025], within the margin of .1 (+.028 on world 0, -.136 on world 1); above
    the reference both fall (+.580 [+.536, +.624]). On version 4 of the world a third of the rate learned -.349, and C4
    was contradicted. D1: contradicted; LoRA learns less (+.029 [+.010, +.049]) and retains less (-.102 [-.127, -.078])
    at its reference, three times the best rate of its grid, at which it learns .018 more and retains .033 more than
    full fine-tuning at its best. D3: supported; the best rates are 7.7 [7.4, 8.1] apart.
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
