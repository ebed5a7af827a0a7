"""The traps of pydantic that would give a wrong table, each as it was met."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic import Field

from harness.errors import SpecError
from harness.identity import canonical, fingerprint
from harness.spec import Axis, DataSpec, FullConfig, LoraConfig, Model, QLoraConfig, Runtime, TrialSpec, parse_json
from tests.specs import pinned_spec


def test_spec_value_is_frozen_and_holds_nothing_mutable() -> None:
    spec = pinned_spec()
    with pytest.raises(pydantic.ValidationError):
        spec.seed = 2  # type: ignore[misc]
    hash(spec)  # a list or a dict anywhere inside would make this raise


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.learning_rate", "1e-3"),
        ("train.batch_size", 16.0),
        ("train.batch_size", True),
        ("train.batch_size", "16"),
        ("data.train_on_end_of_turn", 1),
        ("train.num_epochs", float("nan")),
        ("train.num_epochs", float("inf")),
        ("method.rank", 0),
        ("seed", -1),
        ("train.schedule", "Cosine"),
    ],
)
def test_spec_value_of_another_type_or_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(SpecError, match=field.split(".")[-1]):
        pinned_spec().replace({field: value})


def test_spec_nan_given_in_python_is_refused() -> None:
    tree = pinned_spec().train.model_dump()
    with pytest.raises(pydantic.ValidationError):
        type(pinned_spec().train)(**tree | {"learning_rate": float("nan")})


def test_spec_several_violations_are_all_reported() -> None:
    with pytest.raises(SpecError) as caught:
        pinned_spec().replace({"train.batch_size": 0, "train.learning_rate": -1.0, "seed": -1})
    assert len(caught.value.problems) == 3


def test_spec_unknown_field_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"train\.learning_rat is not a field.*Did you mean 'learning_rate'"):
        pinned_spec().replace({"train.learning_rat": 1.0})


def test_spec_unknown_field_in_json_is_refused() -> None:
    tree = json.loads(pinned_spec().model_dump_json()) | {"extra": 1}
    with pytest.raises(SpecError, match="extra"):
        parse_json(TrialSpec, json.dumps(tree))


def test_spec_json_round_trip_keeps_every_field_and_type() -> None:
    spec = pinned_spec()
    again = parse_json(TrialSpec, spec.model_dump_json())
    assert again == spec
    assert type(again.method) is LoraConfig


def test_spec_replace_validates_where_model_copy_does_not() -> None:
    copied = pinned_spec().train.model_copy(update={"batch_size": 0})
    assert copied.batch_size == 0  # the trap: no validation
    with pytest.raises(SpecError):
        pinned_spec().replace({"train.batch_size": 0})


def test_spec_lists_become_tuples_only_from_json() -> None:
    with pytest.raises(pydantic.ValidationError):
        Axis(field="seed", values=[1, 2])  # type: ignore[arg-type]
    assert parse_json(Axis, '{"field": "seed", "values": [1, 2]}').values == (1, 2)


def test_spec_axis_keeps_the_type_of_each_value() -> None:
    axis = parse_json(Axis, '{"field": "x", "values": [1, 1.0, true, "1", null]}')
    assert [type(value) for value in axis.values] == [int, float, bool, str, type(None)]


def test_spec_methods_with_equal_fields_hash_apart() -> None:
    lora = LoraConfig(rank=8, alpha=16.0, target_modules="mlp")
    qlora = QLoraConfig(rank=8, alpha=16.0, target_modules="mlp")
    assert fingerprint(lora) != fingerprint(qlora)
    assert fingerprint(FullConfig()) not in (fingerprint(lora), fingerprint(qlora))


class _Animal(Model):
    kind: str = "animal"


class _Dog(_Animal):
    kind: str = "dog"
    name: str


class _Box(Model):
    animal: _Animal


def test_spec_field_typed_as_a_base_class_keeps_the_subclass_in_the_fingerprint() -> None:
    rex, fido = _Box(animal=_Dog(name="rex")), _Box(animal=_Dog(name="fido"))
    assert rex.model_dump() == fido.model_dump()  # the trap: pydantic dumps the declared type
    assert fingerprint(rex) != fingerprint(fido)


def test_spec_negative_zero_has_the_fingerprint_of_zero() -> None:
    spec = pinned_spec()
    negative = spec.replace({"train.weight_decay": -0.0})
    assert repr(negative.train.weight_decay) == "-0.0"
    assert fingerprint(negative) == fingerprint(spec)


def test_spec_whole_number_for_a_float_has_one_fingerprint() -> None:
    assert fingerprint(pinned_spec().replace({"train.num_epochs": 3})) == fingerprint(pinned_spec())


class _Holder(Model):
    inner: Annotated[Any, Field()]


@pytest.mark.parametrize("value", [{"a": 1}, {1, 2}, object(), b"x", float("nan"), float("inf")])
def test_spec_value_without_exact_json_is_refused_by_the_fingerprint(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical(_Holder.model_construct(inner=value))


def test_spec_runtime_is_no_part_of_a_trial() -> None:
    assert not set(Runtime.model_fields) & set(TrialSpec.model_fields)


class _Choice(Model):
    kind: Literal["a"] = "a"


def test_spec_kind_is_in_the_fingerprint_though_it_is_a_default() -> None:
    assert canonical(_Choice()) == {"kind": "a"}


def test_trial_that_asks_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match=r"evals\.tasks is empty, but must name at least one slice"):
        pinned_spec().replace({"evals.tasks": ()})


@pytest.mark.parametrize("day", ["2026-02-31", "2026-13-01", "0000-01-01"])
def test_template_date_that_is_no_day_is_refused_whether_or_not_the_template_asks(day: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=rf"data\.template_date is '{day}', but must be a day"):
        DataSpec.model_validate(dict(pinned_spec().data) | {"template_date": day})
