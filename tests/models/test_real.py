"""The same on real weights, where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.methods import attach, quantisation
from harness.models import BaseFiles, describe_folder, load_model, load_tokenizer, locate
from harness.records.store import Store
from harness.spec import LoraConfig, QLoraConfig

MODELS = Path(__file__).parents[3] / "shared" / "data" / "models"
TEXT = "Once upon a time, there was a little girl named Lily. She liked to play outside in the park."
# Name -> context, vocabulary, whether it brings a template, loss on the text in float32 and in doubly quantised nf4.
# Measured; minimind2's was 3.96 as well when nf4 was done by hand in torch.
EXPECTED = {
    "stories260K": (512, 512, False, 0.318, 0.321),
    "stories15M": (256, 32000, False, 0.414, 0.475),
    "minimind2-small": (32768, 6400, True, 2.557, 3.966),
}
LOSS_TOLERANCE = 0.01  # between processors; a model loaded wrongly is off by more than 1
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODELS.is_dir(), reason="no real weights beside the checkout"),
]


@pytest.fixture(params=EXPECTED)
def real(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, BaseFiles]:
    return request.param, locate(describe_folder(MODELS / request.param), Store(tmp_path))


def loss_of(files: BaseFiles, config: QLoraConfig | None = None) -> float:
    # minimind2 was never without this token first: its loss is 14.5 then.
    text = "<|im_start|>" + TEXT if files.has_chat_template else TEXT
    ids = load_tokenizer(files)(text, return_tensors="pt").input_ids
    model = load_model(files, "float32", "cpu", quantisation(config) if config else None)
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


def test_real_folder_is_described_and_loads_to_a_model_that_knows_english(real: tuple[str, BaseFiles]) -> None:
    name, files = real
    context, vocabulary, has_template, loss, _ = EXPECTED[name]
    assert (files.context, files.vocab_size, files.has_chat_template) == (context, vocabulary, has_template)
    assert loss_of(files) == pytest.approx(loss, abs=LOSS_TOLERANCE)


def test_real_base_in_4_bits_loses_what_4_bits_cost(real: tuple[str, BaseFiles]) -> None:
    # stories15M has layers of 288 inputs, which unpack wrongly without the repair: its loss is then above 2.
    config = QLoraConfig(rank=4, alpha=8.0, target_modules="all_linear")
    assert loss_of(real[1], config) == pytest.approx(EXPECTED[real[0]][4], abs=LOSS_TOLERANCE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_real_base_under_a_fresh_adapter_gives_its_own_logits(real: tuple[str, BaseFiles], dtype: str) -> None:
    files = real[1]
    ids = load_tokenizer(files)(TEXT, return_tensors="pt").input_ids
    for config in (
        LoraConfig(rank=4, alpha=8.0, target_modules="all_linear"),
        QLoraConfig(rank=4, alpha=8.0, target_modules="mlp"),
    ):
        model = load_model(files, dtype, "cpu", quantisation(config))
        with torch.no_grad():
            before = model(ids).logits
            assert torch.equal(attach(model, config, seed=0).eval()(ids).logits, before)
