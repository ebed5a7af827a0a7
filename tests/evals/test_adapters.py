from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from harness.data import TEMPLATES
from harness.errors import ModelError
from harness.evals import adapters, item_rows, item_rows_of_adapters
from harness.evals.scorer import Scorer
from harness.evals.table import ItemRow
from harness.seeding import preserved_rng
from harness.spec import EvalSpec
from tests.evals import small
from tests.models import tiny

NAMES = ("red", "blue")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvalSpec:
    return small.evals(*small.every_kind(tmp_path_factory.mktemp("items")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return two adapters on disk that were trained to different weights, of different rank."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(NAMES):
        config = LoraConfig(r=2 + 2 * seed, target_modules="all-linear", lora_dropout=0.5, task_type="CAUSAL_LM")
        model = get_peft_model(small.llama(), config)
        with preserved_rng():
            torch.manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.normal_(std=0.2)
        model.save_pretrained(str(root / name))
    return {name: root / name for name in NAMES}


def _with_both(folders: dict[str, Path], **settings: Any) -> PeftModel:
    model = PeftModel.from_pretrained(small.llama(), folders["red"], adapter_name="red", **settings)
    model.load_adapter(folders["blue"], adapter_name="blue")
    return model


def _alone(folders: dict[str, Path], name: str | None, spec: EvalSpec) -> list[ItemRow]:
    model = small.llama() if name is None else PeftModel.from_pretrained(small.llama(), folders[name])
    return item_rows(model, small.chat(), spec, batch_size=16)


def _rows(model: PeftModel, spec: EvalSpec) -> dict[str | None, list[ItemRow]]:
    return item_rows_of_adapters(model, ["red", None, "blue"], small.chat(), spec, batch_size=16)


def test_adapters_of_one_model_score_as_each_alone_on_a_fresh_base(folders: dict[str, Path], spec: EvalSpec) -> None:
    rows = _rows(_with_both(folders), spec)
    assert list(rows) == ["red", None, "blue"]
    for name, found in rows.items():
        assert found == _alone(folders, name, spec)
    values = [[row.value for row in found] for found in rows.values()]
    assert values[0] != values[1] != values[2] != values[0]


@pytest.mark.parametrize("broken", ["set_adapter", "disable_adapter"])
def test_adapters_of_a_build_that_does_not_switch_are_noticed(
    broken: str, folders: dict[str, Path], spec: EvalSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison of the test above, on a build in which one of peft's two switches does nothing."""
    model = _with_both(folders)
    nothing: Callable[..., Any] = adapters.contextmanager(lambda: iter([None])) if broken[0] == "d" else _do_nothing
    monkeypatch.setattr(model, broken, nothing)
    rows = _rows(model, spec)
    missed = "blue" if broken == "set_adapter" else None
    assert rows[missed] != _alone(folders, missed, spec)


def test_adapters_on_disk_are_scored_by_the_lines_in_the_docs(
    folders: dict[str, Path], spec: EvalSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs/researcher.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    base = tiny.write_folder(tmp_path / "my_base", max_position_embeddings=512)
    (base / "chat_template.jinja").write_text(TEMPLATES["chatml_lite"])
    (tmp_path / "adapters").symlink_to(folders["red"].parent)
    (tmp_path / "my_items").mkdir()
    small.every_kind(tmp_path / "my_items")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert list(names["rows"]) == [None, "red", "blue"]
    scores = [[row.value for row in found] for found in names["rows"].values()]
    assert scores[0] != scores[1] != scores[2]


def _do_nothing(*_: Any, **__: Any) -> None: ...


def test_adapters_are_scored_on_items_that_are_encoded_once(
    folders: dict[str, Path], spec: EvalSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    tokenised = Scorer._tokenised

    def counted(self: Scorer, texts: list[str], *, add_special_tokens: bool) -> Any:
        encoded.extend(f"{add_special_tokens} {text}" for text in texts)
        return tokenised(self, texts, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(Scorer, "_tokenised", counted)
    _rows(_with_both(folders), spec)
    assert encoded
    assert len(encoded) == len(set(encoded))


@pytest.mark.parametrize("active", ["red", "blue", None])
def test_adapters_are_left_as_they_were(active: str | None, folders: dict[str, Path], spec: EvalSpec) -> None:
    model = _with_both(folders, is_trainable=True).train()
    model.set_adapter(active or "red")
    if active is None:
        model.base_model.disable_adapter_layers()
    model.config.use_cache = False
    before = _state(model)
    _rows(model, spec)
    assert _state(model) == before


def _state(model: PeftModel) -> dict[str, Any]:
    return {
        "active": (model.active_adapter, list(model.active_adapters), str(model.get_model_status())),
        "trainable": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "modes": [module.training for module in model.modules()],
        "random": (random.getstate(), torch.get_rng_state().tolist()),
        "config": model.config.to_dict(),
        "weights": [parameter.double().sum().item() for parameter in model.parameters()],
    }


def test_adapter_that_fails_half_way_leaves_the_model_as_it_was(
    folders: dict[str, Path], spec: EvalSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _with_both(folders, is_trainable=True)
    before = _state(model)
    monkeypatch.setattr(adapters, "ask", lambda scorer, spec: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        item_rows_of_adapters(model, ["blue"], small.chat(), spec, batch_size=16)
    assert _state(model) == before


def test_adapter_that_the_model_lacks_is_refused_by_name(folders: dict[str, Path], spec: EvalSpec) -> None:
    with pytest.raises(ModelError, match=r"'blu', but must be of blue, red.*Did you mean 'blue'"):
        item_rows_of_adapters(_with_both(folders), ["blu"], small.chat(), spec, batch_size=16)


def test_adapter_that_is_merged_is_refused(folders: dict[str, Path], spec: EvalSpec) -> None:
    model = _with_both(folders)
    model.merge_adapter(["blue"])
    with pytest.raises(ModelError, match="unmerge_adapter"):
        _rows(model, spec)
