"""Claims are refused where they name what their sweep does not plan, and survive JSON."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest

from harness.errors import SpecError
from harness.identity import canonical
from harness.spec import (
    Arm,
    Axis,
    Claim,
    Contrast,
    Hump,
    Line,
    Monotone,
    OptimumRatio,
    PowerLaw,
    Quantity,
    Sweep,
    Term,
    parse_json,
    same_value,
)

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


def valued(**published: Any) -> Claim:
    return Claim(id="c", statement="s", source="s", published="", parts=(contrast(FULL),), **published)


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


SHAPES: tuple[Any, ...] = (
    Monotone(metric="learned", axis=EPOCHS, at=(("method", "full"),), expect="rising", margin=0.2),
    Hump(metric="learned", axis=EPOCHS, at=(("method", "full"),), expect="peak", margin=0.01),
    PowerLaw(metric="learned", axis=EPOCHS, at=(("method", "full"),), expect="rising", low=0.1, high=0.5),
)


def along(values: tuple[float, ...], part: Any) -> Sweep:
    """Return the sweep with these numbers of epochs."""
    tree = json.loads(sweep(contrast(FULL)).model_dump_json())
    tree["axes"][0]["values"] = list(values)
    tree["claims"][0]["parts"] = [json.loads(part.model_dump_json())]
    return parse_json(Sweep, json.dumps(tree))


@pytest.mark.parametrize("part", SHAPES)
def test_shape_survives_json_in_its_sweep_and_needs_enough_levels(part: Any) -> None:
    assert along((1.0, 2.0, 4.0, 8.0), part).claims[0].parts == (part,)
    with pytest.raises(
        SpecError, match=rf"axis is 'train\.num_epochs', but must have at least [34] numbers.*{part.kind}"
    ):
        along((1.0, 2.0), part)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (SHAPES[0].replace({"at": []}), r"at names no value of method"),
        (SHAPES[0].replace({"axis": "x"}), r"axis is 'x', but must be an axis of the sweep"),
        (SHAPES[1].replace({"at": [[EPOCHS, 1.0], ["method", "full"]]}), r"at names train\.num_epochs, but must not"),
        (SHAPES[1].replace({"axis": "method", "at": [[EPOCHS, 1.0]]}), r"axis is 'method', but must have at least 3"),
        (SHAPES[2].replace({"metric": "retained"}), r"'retained', but must be among the sweep's measures"),
    ],
)
def test_shape_that_names_what_is_not_planned_is_refused(part: Any, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        along((1.0, 2.0, 4.0, 8.0), part)


def test_hump_counts_no_level_without_a_logarithm() -> None:
    assert along((0.0, 1.0, 2.0), SHAPES[0]).claims
    with pytest.raises(SpecError, match="at least 3 numbers above 0 for hump"):
        along((0.0, 1.0, 2.0), SHAPES[1])


def test_claim_without_a_published_value_is_written_as_before_there_was_one() -> None:
    plain = sweep(contrast(FULL)).claims[0]
    assert list(json.loads(plain.model_dump_json())) == ["id", "statement", "source", "published", "parts"]
    whole = plain.model_copy(update={"published_value": 9.8, "published_unit": "ratio"})
    assert canonical(plain).keys() < canonical(whole).keys()
    assert parse_json(Claim, whole.model_dump_json()) == whole


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


@pytest.mark.parametrize("mean", ["base_answers/kl_base_tuned", "answers/kl_tuned_base_rest", "neutral/argmax_loss"])
def test_optimum_of_drift_is_where_the_model_is_nearest_to_its_base(mean: str) -> None:
    assert OptimumRatio(**RATIO | {"metric": f"drift/{mean}"}, denominator="full").metric == f"drift/{mean}"


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
        (
            lambda: OptimumRatio(**RATIO | {"metric": "edl_bits"}, denominator="full"),
            r"metric is 'edl_bits', but must be one of which more or less is better",
        ),
        (
            lambda: OptimumRatio(**RATIO | {"metric": "drift/samples/distinct_1_tuned"}, denominator="full"),
            r"metric is 'drift/samples/distinct_1_tuned', but must be .* better; of drift that is kl_base_tuned, .*",
        ),
        (
            lambda: OptimumRatio(**RATIO | {"metric": "drift/neutral/argmax_loss_base"}, denominator="full"),
            r"metric is 'drift/neutral/argmax_loss_base', but must be one of which more or less is better",
        ),
        (lambda: SHAPES[2].replace({"low": 0.6}), r"low is 0\.6, but must be below high 0\.5"),
        (lambda: SHAPES[2].replace({"low": -0.1}), r"low is -0\.1, but must have the sign of high 0\.5"),
        (lambda: valued(published_value=1.0), r"published_unit is missing, but must say"),
        (lambda: valued(published_unit="points"), r"published_value is None, but must be given"),
        (
            lambda: valued(published_value=1.0, published_unit="points", published_part=1),
            r"published_part is 1, but must be below 1",
        ),
        (lambda: sweep(contrast(FULL), worlds=(0, 0)), r"must be different integers from 0 on"),
        (lambda: sweep(contrast(FULL), worlds=(0,), set=(("world.seed", 1),)), r"must be empty where world\.seed is"),
    ],
)
def test_claim_that_could_not_be_decided_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        make()
