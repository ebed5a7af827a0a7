"""What does packing change: nothing, the number of steps, or what an example reads?

Hypothesis: examples laid end to end without padding train as padded ones do; packed rows at equal epochs learn less,
    because several examples share a row and the steps become fewer; at equal steps that loss is gone; reading the
    examples packed before it does an example no good.
Refuted if: padding-free and padded rows differ by more than their interval; or isolated packing at equal epochs learns
    as much as no packing; or joined rows beat isolated ones at equal steps.
Source: Kundu et al. (arXiv:2407.09105) and Wang et al. (arXiv:2410.08081) for packing in fine-tuning; Zhao et al.
    (arXiv:2402.13991) for what a document does to the next one.
Command: make sweep NAME=packing
Design: the same 400 examples throughout. `batch_size` counts rows, so a packed step holds several times the examples of
    an unpacked one: `equal_epochs` passes the data as often, in fewer steps; `equal_steps` takes as many steps as
    without packing, and so passes the data several times as often; `quarter_batch` takes a quarter of the rows a step
    at equal epochs, so that a packed step of this world has 6 examples, where an unpacked one has 8 by default.
Cost: 4 ways x 3 arms x 3 seeds, 36 trials.
Measured on the pocket world (2026-11-22, full fine-tuning): padding-free rows score as padded ones to a thousandth. At
    equal epochs, 98 steps for 300, isolated rows learn .88 and move what is retained by -.05, without packing .86 and
    -.07, intervals .03 to .05 either way; at equal steps .84 and -.11; at a quarter of the rows .85 and -.10. Joined
    rows learn .87, .82 and .83 in the three arms. Packing at equal epochs learns as much here, in a third of the steps:
    refuted, and by that alone.
"""

from __future__ import annotations

from harness.spec import Arm, Axis, Sweep

SWEEP = Sweep(
    name="packing",
    hypothesis=(
        "Padding changes nothing; packed rows at equal epochs learn less, because their steps are fewer, and as much "
        "at equal steps; reading the examples packed before does no good."
    ),
    refuted_if=(
        "Padding-free and padded rows differ, isolated packing at equal epochs learns as much as no packing, or joined "
        "rows beat isolated ones at equal steps."
    ),
    source="Kundu et al., arXiv:2407.09105; Wang et al., arXiv:2410.08081; Zhao et al., arXiv:2402.13991",
    axes=(Axis(field="data.packing", values=("off", "padding_free", "isolated", "joined")),),
    arms=(
        Arm(name="equal_epochs", hold="epochs"),
        Arm(name="equal_steps", hold="steps"),
        Arm(name="quarter_batch", hold="epochs", set=(("train.batch_size", 2),)),
    ),
    seeds=(0, 1, 2),
    measures=("learned", "retained"),
)
