from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from experiments.pocket import EXPERIMENT
from harness import methods
from harness.errors import ModelError
from harness.identity import base_ref_key, trial_id
from harness.models import BaseFiles, describe_folder, fetched_key, load_model, locate
from harness.models.locate import ORIGIN
from harness.records.schema import (
    DataSummary,
    EvalScores,
    Provenance,
    ResolvedIdentity,
    TrainSummary,
    TrialResult,
)
from harness.records.store import Store, write_atomic
from harness.spec import (
    ArtefactBase,
    BaseRef,
    FullConfig,
    HubBase,
    LoraConfig,
    MethodConfig,
    QLoraConfig,
    TrialBase,
    TrialSpec,
)
from tests.models.tiny import IDS, tokenizer, write_folder

ARTEFACT = ArtefactBase(name="tiny", gguf_sha256="a" * 64)
HUB = HubBase(repo_id="someone/tiny", revision="b" * 40)
POCKET = EXPERIMENT.spec.base
ADAPTER = {"rank": 4, "alpha": 8.0, "target_modules": "all_linear"}
PLACES: dict[str, tuple[BaseRef, str, str]] = {
    "pocket": (POCKET, "base", base_ref_key(POCKET)),
    "artefact": (ARTEFACT, "fetched", "tiny"),
    "hub": (HUB, "fetched", f"model--someone--tiny--{'b' * 40}"),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


def build(folder: Path) -> None:
    write_folder(folder)
    write_atomic(folder / ORIGIN, json.dumps({"gguf_sha256": "a" * 64}).encode())


@pytest.mark.parametrize("kind", PLACES)
def test_base_of_each_kind_is_found_where_it_is_built(kind: str, store: Store, tiny_files: BaseFiles) -> None:
    base, place, key = PLACES[kind]
    folder = store.ensure_artefact(place, key, build)
    files = locate(base, store)
    assert files.folder == folder
    assert files.weights_sha256 == tiny_files.weights_sha256


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [("pocket", "run the sweep again"), ("artefact", "run make fetch BASE=tiny"), ("hub", "names someone/tiny")],
)
def test_base_that_is_not_there_is_refused_with_its_remedy(kind: str, remedy: str, store: Store) -> None:
    with pytest.raises(ModelError, match=remedy) as refusal:
        locate(PLACES[kind][0], store)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", PLACES)
def test_base_without_a_manifest_counts_as_not_there(kind: str, store: Store) -> None:
    base, place, key = PLACES[kind]
    folder = store.ensure_artefact(place, key, build)
    (folder / "manifest.json").unlink()
    with pytest.raises(ModelError, match="is missing"):
        locate(base, store)


@pytest.mark.parametrize("kind", PLACES)
def test_base_with_a_flipped_byte_is_refused(kind: str, store: Store) -> None:
    base, place, key = PLACES[kind]
    path = store.ensure_artefact(place, key, build) / "model.safetensors"
    locate(base, store)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is damaged.*delete that folder"):
        locate(base, store)


def test_fetched_weights_of_another_gguf_are_refused(store: Store) -> None:
    store.ensure_artefact("fetched", "tiny", build)
    with pytest.raises(ModelError, match=r"base\.gguf_sha256 is 'ccc"):
        locate(ArtefactBase(name="tiny", gguf_sha256="c" * 64), store)


def test_fetched_keys_tell_revisions_apart() -> None:
    assert fetched_key(HUB) != fetched_key(HubBase(repo_id="someone/tiny", revision="c" * 40))


def test_folder_is_found_until_its_contents_change(tiny_folder: Path, tmp_path: Path, store: Store) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "mine"))
    base = describe_folder(folder)
    assert locate(base, store).folder == folder
    shutil.rmtree(folder)
    write_folder(folder, seed=1)
    with pytest.raises(ModelError, match=r"base\.content_sha256 is .* but .* now holds"):
        locate(base, store)


# -- another trial as base --------------------------------------------------------------------------------------------

Finish = Callable[..., TrialBase]


@pytest.fixture
def finish(store: Store, tiny_folder: Path) -> Finish:
    """Record a trial on the tiny folder, with the weights of a given model."""

    def finished(
        model: nn.Module, method: MethodConfig, keep: str = "all", state: str = "COMPLETE", **saved: object
    ) -> TrialBase:
        spec = EXPERIMENT.spec.replace({"base": describe_folder(tiny_folder), "method": method})
        folder = store.trial(trial_id(spec))
        methods.save(model, method, folder / "weights", keep, **saved)
        write_atomic(folder / "result.json", record(spec, state).model_dump_json().encode())
        return TrialBase(trial_id=trial_id(spec))

    return finished


def record(spec: TrialSpec, state: str) -> TrialResult:
    sha = "0" * 64
    scores = EvalScores(key="k", test={}, val={}, items_file="none")
    return TrialResult(
        trial_id=trial_id(spec),
        state=state,
        spec=spec,
        resolved=ResolvedIdentity(
            weights_sha256=sha, tokenizer_sha256=sha, quantisation=None, rows_sha256=sha, items_sha256={}
        ),
        data=DataSummary(
            rows_sha256=sha,
            num_rows_read=1,
            num_rows_dropped={},
            num_train=1,
            num_validation=0,
            num_truncated=0,
            completion_prompt_ratio=None,
            mean_tokens=None,
            loss_token_share=None,
            template_sha256=sha,
        ),
        train=TrainSummary(
            num_steps=1,
            num_epochs=1.0,
            num_examples_seen=1,
            num_tokens=1,
            num_loss_tokens=1,
            learning_rate_integral=0.0,
            trainable_parameters=1,
            total_parameters=1,
            train_loss_first=None,
            train_loss_last=None,
            val_loss=None,
            stopped_early=False,
            divergence=None,
        ),
        before=scores,
        before_full_precision=None,
        after=None,
        provenance=Provenance(
            host="h",
            platform="p",
            cpu="c",
            device="cpu",
            num_threads=1,
            git_commit=None,
            git_dirty=None,
            libraries={},
            command="python -m harness run-trial x",
            started_utc="2026-01-01T00:00:00+00:00",
            seconds_total=1.0,
            seconds_train=1.0,
            seconds_eval=0.0,
            tokens_per_second=None,
            peak_memory_bytes=None,
            peak_gpu_memory_bytes=None,
        ),
    )


def trained(files: BaseFiles, method: MethodConfig) -> nn.Module:
    model = methods.attach(load_model(files, "float32", "cpu", methods.quantisation(method)), method, seed=0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            parameter.data.add_(0.02)
    return model.eval()


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_trial_fully_trained_is_its_own_weights(finish: Finish, store: Store, tiny_files: BaseFiles) -> None:
    model = trained(tiny_files, FullConfig())
    base = finish(model, FullConfig())
    files = locate(base, store)
    assert files.folder == store.trial(base.trial_id) / "weights"
    assert files.tokenizer_sha256 == tiny_files.tokenizer_sha256
    assert torch.equal(logits(load_model(files, "float32", "cpu")), logits(model))


def test_trial_saved_with_its_tokenizer_brings_its_template(
    finish: Finish, store: Store, tiny_files: BaseFiles
) -> None:
    with_template = tokenizer()
    with_template.chat_template = "{{ messages }}"
    base = finish(trained(tiny_files, FullConfig()), FullConfig(), tokenizer=with_template)
    assert not tiny_files.has_chat_template
    assert locate(base, store).has_chat_template


@pytest.mark.parametrize("method", [LoraConfig(**ADAPTER), QLoraConfig(**ADAPTER)])
def test_trial_with_an_adapter_is_merged_into_the_base_it_was_trained_on(
    method: MethodConfig, finish: Finish, store: Store, tiny_files: BaseFiles
) -> None:
    model = trained(tiny_files, method)
    base = finish(model, method)
    files = locate(base, store)
    merged = load_model(files, "float32", "cpu")
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    # W + BA in one float32 matrix against two products added: a few units in the last place of logits of size 10.
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)
    assert locate(base, store) == files


def test_trial_on_a_4_bit_base_is_not_merged_into_the_full_precision_one(
    finish: Finish, store: Store, tiny_files: BaseFiles
) -> None:
    method = QLoraConfig(**ADAPTER)
    model = trained(tiny_files, method)
    base = finish(model, method)
    adapter = str(store.trial(base.trial_id) / "weights")
    naive = PeftModel.from_pretrained(load_model(tiny_files, "float32", "cpu"), adapter).merge_and_unload()
    away = (logits(naive) - logits(model)).abs().max()
    near = (logits(load_model(locate(base, store), "float32", "cpu")) - logits(model)).abs().max()
    assert away > 100 * near


def test_trial_can_start_from_a_trial(finish: Finish, store: Store, tiny_files: BaseFiles) -> None:
    first = finish(trained(tiny_files, LoraConfig(**ADAPTER)), LoraConfig(**ADAPTER))
    second_spec = EXPERIMENT.spec.replace({"base": first, "method": FullConfig()})
    model = trained(locate(first, store), FullConfig())
    folder = store.trial(trial_id(second_spec))
    methods.save(model, FullConfig(), folder / "weights", "all")
    write_atomic(folder / "result.json", record(second_spec, "COMPLETE").model_dump_json().encode())
    files = locate(TrialBase(trial_id=trial_id(second_spec)), store)
    assert torch.equal(logits(load_model(files, "float32", "cpu")), logits(model))
    assert files.tokenizer_sha256 == tiny_files.tokenizer_sha256


def test_trial_unknown_is_refused(store: Store) -> None:
    with pytest.raises(ModelError, match="must be a finished trial under"):
        locate(TrialBase(trial_id="d" * 64), store)


def test_trial_that_kept_nothing_is_refused(finish: Finish, store: Store, tiny_files: BaseFiles) -> None:
    base = finish(trained(tiny_files, FullConfig()), FullConfig(), keep="none")
    command = f"run: python -m harness run-trial {base.trial_id} --keep all --out {store.root}"
    with pytest.raises(ModelError, match=f"kept no weights.*{re.escape(command)}$"):
        locate(base, store)


def test_trial_that_diverged_is_refused(finish: Finish, store: Store, tiny_files: BaseFiles) -> None:
    base = finish(trained(tiny_files, FullConfig()), FullConfig(), state="DIVERGED")
    with pytest.raises(ModelError, match="DIVERGED; choose one that is COMPLETE"):
        locate(base, store)


def test_trial_with_a_flipped_byte_is_refused(finish: Finish, store: Store, tiny_files: BaseFiles) -> None:
    base = finish(trained(tiny_files, LoraConfig(**ADAPTER)), LoraConfig(**ADAPTER))
    path = store.trial(base.trial_id) / "weights" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is damaged.*; delete that folder, then run: python -m harness run-trial"):
        locate(base, store)
