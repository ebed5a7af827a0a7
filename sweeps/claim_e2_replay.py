"""Does a little replay go a long way?

Hypothesis: claim E2: replaying pretraining text has a steep early return: a few percent of the rows keep most of what
    is forgotten.
Refuted if: 5 % of replay keeps nothing, or the return from 5 to 20 % is as large as from 0 to 5 %.
Source: Bethune et al. (arXiv:2502.06042): 1 % of pretraining data injected shields; teaching material: 10 to 20 %.
Command: make sweep NAME=claim_e2_replay
Design: three times the reference learning rate, where forgetting is plain. The share is of the training rows: rows
    and steps stay equal, so replay takes the place of conversations. Replayed: documents of the pretraining corpus in
    its own proportion, with loss on every token.
Cost: 5 shares x 5 seeds x 2 worlds = 50 trials.
Measured on the pocket world (2026-11-22, worlds 0 and 1, 5 seeds each): over shares of 0, 1, 5, 10 and 20 % retained
    scores are .493 .521 .522 .555 .581 (base .957) and learned ones .517 .530 .540 .558 .581. The first 5 % keep
    +.028 [-.001, +.058], twice that less the whole is -.031 [-.077, +.016]: no steep beginning is seen, but 10
    replicates cannot exclude one of the margin. E2: undecided, not powered.
"""

from __future__ import annotations

from harness.spec import Axis, Claim, Contrast, Sweep, Term

SHARE = "data.replay_share"


def _kept(share: float, weight: float) -> Term:
    return Term(metric="retained", at=((SHARE, share),), weight=weight)


SWEEP = Sweep(
    name="claim_e2_replay",
    hypothesis="A few percent of replayed pretraining text keep most of what fine-tuning forgets.",
    refuted_if="5 % of replay keeps nothing, or going from 5 to 20 % keeps as much as going from 0 to 5 %.",
    source="Bethune et al., arXiv:2502.06042",
    axes=(Axis(field=SHARE, values=(0.0, 0.01, 0.05, 0.1, 0.2)),),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    set=(("train.learning_rate", 1e-3),),
    claims=(
        Claim(
            id="E2",
            statement="The first 5 % of replay keep more than the next 15 %.",
            source="Bethune et al., arXiv:2502.06042",
            published="1 % shields",
            parts=(
                Contrast(terms=(_kept(0.05, 1.0), _kept(0.0, -1.0)), expect="greater", margin=0.03),
                Contrast(
                    terms=(_kept(0.05, 2.0), _kept(0.0, -1.0), _kept(0.2, -1.0)),
                    expect="greater",
                    margin=0.03,
                ),
            ),
        ),
    ),
)
