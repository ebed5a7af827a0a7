"""How many examples does supervised fine-tuning need?

Hypothesis: answering in the taught form saturates within a few hundred examples, while what the base knew keeps
    being lost as examples - and with them steps - are added; at equal steps the loss hardly depends on the size.
Refuted if: learned scores still rise by more than their interval over the last doubling of examples, or the
    retained scores at equal steps move with size as much as they do at equal epochs.
Source: Zhou et al., LIMA (arXiv:2305.11206), section 5: quality stays flat from 2 000 to 32 000 examples of
    homogeneous prompts; Raghavendra et al. (arXiv:2410.03717): style saturates within about 1 000 examples, skills
    keep rising.
Command: make sweep NAME=lima_size
Design: the subsets are nested within a seed. Two arms: `equal_epochs` passes every subset as often as the
    experiment says (more examples, more steps); `equal_steps` takes the same steps at every size. The experiment's
    own size is the same trial in both arms and runs once.
Cost: 6 sizes x 2 arms x 3 seeds, 33 distinct trials; on the pocket world 4 to 5 minutes on 2 cores after the base.
Measured on the pocket world (2026-11-22, full fine-tuning): at equal epochs, from 25 to 800 examples, learned scores
    are .01 .14 .69 .82 .86 .87 and retained ones move by -.00 -.01 -.04 -.06 -.07 -.13; at equal steps learned scores
    are .31 .60 .70 .77 .86 .91 and retained ones move by -.05 -.09 -.10 -.10 -.07 -.08. The last doubling adds .01 at
    equal epochs and .05 at equal steps, and the loss hardly depends on the size at equal steps: the hypothesis holds.
    At equal steps small sets forget about as much.
"""

from __future__ import annotations

from harness.spec import Arm, Axis, Claim, Monotone, Sweep

SIZE = "data.num_examples"

SWEEP = Sweep(
    name="lima_size",
    hypothesis=(
        "The taught form saturates within a few hundred examples, while the base's knowledge keeps being lost as "
        "examples are added at equal epochs; at equal steps that loss hardly depends on the size."
    ),
    refuted_if=(
        "Learned scores still rise by more than their interval over the last doubling of examples, or retained "
        "scores at equal steps move with size as much as at equal epochs."
    ),
    source="Zhou et al., LIMA, arXiv:2305.11206, section 5; Raghavendra et al., arXiv:2410.03717",
    axes=(Axis(field=SIZE, relative_to="sizes"),),
    arms=(Arm(name="equal_epochs", hold="epochs"), Arm(name="equal_steps", hold="steps")),
    seeds=(0, 1, 2),
    measures=("learned", "retained", "format"),
    claims=(
        Claim(
            id="B1-size",
            statement="At equal epochs more examples teach more, and cost more of what the base knew.",
            source="Zhou et al., arXiv:2305.11206, section 5; Raghavendra et al., arXiv:2410.03717",
            published="no number for what is lost; quality rises to a plateau",
            parts=(
                Monotone(metric="learned", axis=SIZE, arm="equal_epochs", expect="rising", margin=0.3),
                Monotone(metric="retained", axis=SIZE, arm="equal_epochs", expect="falling", margin=0.3),
            ),
        ),
    ),
)
