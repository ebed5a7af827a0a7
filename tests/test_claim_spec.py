"""Claims are refused where they name what their sweep does not plan, and survive JSON."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from harness.spec import Arm, Axis, Claim, Contrast, Line, OptimumRatio, Quantity, Sweep, Term, parse_json, same_value

EPOCHS = "train.num_epochs"
RATE = "train.learning_rate"


def contrast(*places: Any, metric: str = "learned", **more: Any) -> Contrast:
    terms = tuple(Term(metric=metric, at=at, arm=more.get("arm")) for at in places)
    return Contrast(terms=terms, expect="greater", margin=0.1)


def sweep(part: Any, arms: tuple[str, ...] = ("one",), **more: Any) -> Sweep:
    return Sweep(
        name="s",
        hypothesis="h",
        refuted_if="r",
        source="s",
        axes=(
            Axis(field=EPOCHS, values=(1.0, 2.0)),
            Axis(field="method", values=("full", "lora")),
            Axis(field=RATE, values=(1.0,), relative_to="reference_learning_rate"),
        ),
        arms=tuple(Arm(name=name, hold="epochs") for name in arms),
        seeds=(0,),
        measures=("learned",),
        claims=(Claim(id="c", statement="s", source="s", published="", parts=(part,)),),
        **more,
    )


FULL = ((EPOCHS, 1.0), ("method", "full"))
RATIO: dict[str, Any] = {
    "metric": "learned",
    "axis": RATE,
    "between": "method",
    "numerator": "lora",
    "low": 1,
    "high": 2,
}


def test_claim_survives_json_with_its_kinds() -> None:
    parts = (
        contrast(FULL),
        OptimumRatio(**RATIO, denominator="full", at=((EPOCHS, 1.0),)),
        Line(x=Quantity(metric="val_loss"), y=Quantity(metric="learned"), min_r2=0.9, slope="negative"),
    )
    claim = Claim(id="c", statement="s", source="s", published="", parts=parts)
    assert parse_json(Claim, claim.model_dump_json()) == claim
    assert [type(part) for part in parse_json(Claim, claim.model_dump_json()).parts] == [Contrast, OptimumRatio, Line]
    for part in parts:
        assert sweep(part).claims[0].parts == (part,)


def test_claim_term_may_name_a_value_of_another_number_type_but_not_a_truth_value() -> None:
    assert sweep(contrast(((EPOCHS, 1), ("method", "full")))).claims
    assert same_value(1, 1.0)
    assert not same_value(1, True)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (contrast(((EPOCHS, 3.0), ("method", "full"))), r"train\.num_epochs = 3\.0, but must be one of 1\.0, 2\.0"),
        (contrast(((EPOCHS, 1.0),)), r"at names no value of method, but must"),
        (contrast((*FULL, ("data.template", "x"))), r"at names data\.template, but must name axes of the sweep"),
        (contrast((*FULL, ("method", "lora"))), r"at names an axis twice"),
        (contrast(FULL, metric="retained"), r"'retained', but must be among the sweep's measures"),
        (contrast(FULL, arm="two"), r"arm is 'two', but must be one of one"),
        (OptimumRatio(**RATIO, denominator="qlora", at=((EPOCHS, 1.0),)), r"denominator: at says method = 'qlora'"),
        (OptimumRatio(**RATIO, denominator="full"), r"at names no value of train\.num_epochs"),
        (
            OptimumRatio(**RATIO | {"axis": "x"}, denominator="full", at=((EPOCHS, 1.0),)),
            r"axis is 'x', but must be an",
        ),
    ],
)
def test_claim_that_names_what_is_not_planned_is_refused(part: Any, sentence: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=sentence):
        sweep(part)


def test_claim_of_a_sweep_with_several_arms_names_one() -> None:
    with pytest.raises(pydantic.ValidationError, match=r"arm is None, but must be one of one, two"):
        sweep(contrast(FULL), arms=("one", "two"))
    assert sweep(contrast(FULL, arm="two"), arms=("one", "two")).claims


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Term(metric="lerned", at=()),
            r"must be a measure \(learned, retained, fluency, format, safety\), a key",
        ),
        (lambda: Term(metric="val_loss", value="delta", at=()), r"must be 'after' for val_loss"),
        (lambda: contrast(FULL).replace({"expect": "equal", "margin": 0.0}), r"margin must be above 0"),
        (lambda: OptimumRatio(**RATIO | {"high": 1}, denominator="full"), r"low is 1\.0, but must be below high"),
        (lambda: sweep(contrast(FULL), worlds=(0, 0)), r"must be different integers from 0 on"),
        (lambda: sweep(contrast(FULL), worlds=(0,), set=(("world.seed", 1),)), r"must be empty where world\.seed is"),
    ],
)
def test_claim_that_could_not_be_decided_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        make()
