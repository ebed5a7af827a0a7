"""Does masking the prompt help, and does that depend on how long the answers are?

Hypothesis: claim A1: loss over the instruction as well (mask off) helps where answers are short beside their prompts,
    and more with few examples.
Refuted if: mask off is no better than mask on for short answers to long prompts, or helps sentences as much.
Source: Shi et al., Instruction Modelling (arXiv:2405.14394), tables 1 and 5: +0.8 points on LIMA, whose instructions
    are .09 times as long as the outputs, +5.4 on AlpacaEval for MMLU-Chat (26.3 times), more with few examples.
Command: make sweep NAME=claim_a1_mask
Design: two arms, answers of a word (11 characters of prompt to one of answer) and answers in sentences (1.2), each with
    mask on and off, at 50 and 400 examples and equal steps. Learned: exact match on questions about people whom no
    training text asks about, in the form that the arm teaches.
Cost: 2 arms x 2 weights x 2 sizes x 5 seeds x 2 worlds = 80 trials.
Measured on the pocket world (2026-11-22, worlds 0 and 1, 5 seeds each): with the mask and without it short answers
    score .095 and .093 at 50 examples (-.002 [-.018, +.014]) and .284 and .161 at 400, sentences .619 and .367, .816
    and .726. So the mask costs nothing anywhere; going without it harms short answers less than sentences (+.250
    [+.198, +.302]) and less with few examples (+.121 [+.084, +.158]), but guessing a value gets .083, so at 50
    examples there is little to lose. A1: contradicted, by the first part. Without the mask less is retained in all
    four (.846 against .899, .807 against .870, .842 against .866, .852 against .869).
"""

from __future__ import annotations

from harness.spec import Arm, Axis, Claim, Contrast, Sweep, Term, difference

MASK, SIZE = "data.prompt_loss_weight", "data.num_examples"
SHORT, LONGER = "short_answers", "sentences"
LEARNED = {SHORT: "pocket/question_short/exact_match", LONGER: "pocket/question_unasked/exact_match"}


def _off_minus_on(arm: str, size: int, weight: float = 1.0) -> tuple[Term, Term]:
    return difference(LEARNED[arm], {MASK: 1.0, SIZE: size}, {MASK: 0.0, SIZE: size}, weight=weight, arm=arm)


SWEEP = Sweep(
    name="claim_a1_mask",
    hypothesis=(
        "Loss over the instruction as well helps where answers are short beside their prompts, more with few examples."
    ),
    refuted_if="Mask off is no better than mask on for short answers, or as good for long ones.",
    source="Shi et al., arXiv:2405.14394, tables 1 and 5; Huerta-Enochian and Ko, arXiv:2401.13586",
    axes=(Axis(field=MASK, values=(0.0, 1.0)), Axis(field=SIZE, values=(50, 400))),
    arms=(
        Arm(name=SHORT, hold="steps", set=(("data.source.response", "short"),)),
        Arm(name=LONGER, hold="steps", set=(("data.source.response", "sentence"),)),
    ),
    seeds=(0, 1, 2, 3, 4),
    worlds=(0, 1),
    measures=("learned", "retained"),
    claims=(
        Claim(
            id="A1",
            statement="Mask off beats mask on for short answers to long prompts, and more with few examples.",
            source="Shi et al., arXiv:2405.14394",
            published="7 of 7 small sets higher without the mask; LIMA 48.79 to 49.60, MMLU-Chat 47.18 to 47.84",
            parts=(
                Contrast(terms=_off_minus_on(SHORT, 50), expect="greater", margin=0.03),
                Contrast(
                    terms=(*_off_minus_on(SHORT, 50), *_off_minus_on(LONGER, 50, -1.0)),
                    expect="greater",
                    margin=0.03,
                ),
                Contrast(
                    terms=(*_off_minus_on(SHORT, 50), *_off_minus_on(SHORT, 400, -1.0)),
                    expect="greater",
                    margin=0.03,
                ),
            ),
        ),
    ),
)
