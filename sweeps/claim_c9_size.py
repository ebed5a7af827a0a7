"""Does a smaller base forget more under the same fine-tuning?

Hypothesis: claim C9: the smaller the base, the more of what it knew it loses.
Refuted if: the smallest base loses no more than the largest by the margin.
Source: Bethune et al. (arXiv:2502.06042): small models lose most, up to 95 % of pretraining's progress. Against it Luo
    et al. (arXiv:2308.08747): forgetting rises from 9.5 to 18.4 from 1.1 to 7.1 billion parameters.
Command: make sweep NAME=claim_c9_size
Design: bases of three widths, each pretrained on the same corpus for one pass with the same recipe; the data, the steps
    and the learning rate of fine-tuning are equal. Lost: each base's own score less what is left of it. The sign is
    disputed, so both sides of the subtraction stand in the report.
Cost: 3 sizes x 5 seeds x 2 worlds = 30 trials, a third of them those of `aa_control`, and two base models
    a world more, 2 to 4 minutes each on 2 cores.
Measured on version 4 of the pocket world (2026-11-21, worlds 0 and 1, 5 seeds each): at widths 64, 128 and 192 (0.28,
    0.98 and 2.1 million parameters) the bases have .686, .959 and .956 of what is retained and lose .138, .081 and .052
    of it, while they learn .462, .881 and .927. The narrowest loses .087 more than the widest [.051, .122]: .159 [.110,
    .208] on world 0, but .014 [-.038, .066] on world 1. C9: supported, by world 0.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Contrast, Sweep, Term

WIDTH = "base.model.hidden_size"
SMALL, LARGE = 64, 192

SWEEP = Sweep(
    name="claim_c9_size",
    hypothesis="The smaller the base, the more of what it knew it loses.",
    refuted_if="The smallest base loses no more than the largest.",
    source="Bethune et al., arXiv:2502.06042; against it Luo et al., arXiv:2308.08747",
    axes=(Axis(field=WIDTH, values=(SMALL, 128, LARGE)),),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="C9",
            statement="A base a third as wide loses more of what it knew under the same fine-tuning.",
            source="Bethune et al., arXiv:2502.06042; against it Luo et al., arXiv:2308.08747",
            published="small models lose up to 95 % of pretraining's progress; lost 9.5 at 1.1 billion, 18.4 at 7.1",
            parts=(
                Contrast(
                    terms=(
                        Term(metric="retained", value="delta", at=((WIDTH, LARGE),)),
                        Term(metric="retained", value="delta", at=((WIDTH, SMALL),), weight=-1.0),
                    ),
                    expect="greater",
                    margin=0.03,
                ),
            ),
        ),
    ),
)
