from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from harness import methods
from harness.data import PreparedData
from harness.data.packing import joined
from harness.errors import DiskError, StoreError
from harness.models import load_model
from harness.models.files import inspect_folder
from harness.records.store import read_lines, write_manifest
from harness.spec import QLoraConfig
from harness.train import checkpoints
from harness.train.processes import Alone
from tests.models.tiny import write_folder
from tests.train import tiny

ROWS = tiny.prepared(tiny.examples(20), tiny.examples(6, seed=9))
SPEC = tiny.recipe(num_steps=9, eval_every=2)
SAVING = tiny.runtime(micro_batch_size=3, checkpoint_every=2)
BUILDS = {"full": lambda: tiny.llama(attention_dropout=0.2), "lora": lambda: tiny.lora(dropout=0.2)}


class Stopped(BaseException):
    """Stands for whatever ends a process."""


def one_sample(_model: nn.Module, phase: str) -> list[dict[str, Any]]:
    return [{"answer": phase}]


def stop_at(step: int) -> Any:
    def before(optimizer: torch.optim.Optimizer, *_args: Any) -> None:
        before.taken += 1
        if before.taken == step:
            raise Stopped

    before.taken = 0
    return before


def interrupted(model: nn.Module, folder: Path, spec: Any, at: int, **options: Any) -> None:
    """Train until just before the optimizer takes step `at`, counted from 1."""
    handle = register_optimizer_step_pre_hook(stop_at(at))
    try:
        with pytest.raises(Stopped):
            tiny.fit(model, ROWS, spec, folder, runtime=SAVING, sample=one_sample, **options)
    finally:
        handle.remove()


def outcome(model: nn.Module, folder: Path) -> tuple[Any, ...]:
    logs = [tiny.log_of(folder, only=key) for key in ("train/loss", "val/loss")]
    return tiny.weights(model), *logs, read_lines(folder / "samples.jsonl")


def undisturbed(build: Any, folder: Path, spec: Any = SPEC) -> tuple[Any, ...]:
    model = build()
    summary = tiny.fit(model, ROWS, spec, folder, runtime=SAVING, sample=one_sample)
    return summary, *outcome(model, folder)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("at", [1, 3, 4, 9])
def test_resume_after_a_stop_at_any_step_gives_the_same_bytes(method: str, at: int, tmp_path: Path) -> None:
    expected = undisturbed(BUILDS[method], tmp_path / "control")
    interrupted(BUILDS[method](), tmp_path / "run", SPEC, at)
    model = BUILDS[method]()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept[-1] == f"step_{summary.num_steps:08d}"
    assert len(kept) <= checkpoints.KEEP


def test_resume_over_a_four_bit_base_gives_the_same_bytes(tmp_path: Path) -> None:
    config = QLoraConfig(rank=4, alpha=8.0, dropout=0.2, target_modules="all_linear")
    files = inspect_folder(write_folder(tmp_path / "base"))

    def build() -> nn.Module:
        return methods.attach(load_model(files, "float32", "cpu", methods.quantisation(config)), config, seed=0)

    expected = undisturbed(build, tmp_path / "control")
    interrupted(build(), tmp_path / "run", SPEC, 8)
    model = build()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected


# -- every kind of run ------------------------------------------------------------------------------------------------


class Halfway(BaseException):
    """Ends a run in the middle."""


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("base"))


def built(method: str, dropout: float, folder: Path) -> nn.Module:
    if method == "full":
        return tiny.llama(attention_dropout=dropout)
    if method == "lora":
        return tiny.lora(dropout=dropout)
    config = QLoraConfig(rank=4, alpha=8.0, dropout=dropout, target_modules="all_linear")
    base = load_model(inspect_folder(folder), "float32", "cpu", methods.quantisation(config))
    return methods.attach(base, config, seed=0)


def laid(packing: str) -> PreparedData:
    """Return rows each alone, or three examples a row that read themselves alone or one another."""
    if packing == "off":
        return ROWS
    three = [joined(ROWS.train[first : first + 3]) for first in range(0, 18, 3)]
    return replace(tiny.prepared(three, ROWS.validation), reads_itself_alone=packing == "isolated")


def digests(
    model: nn.Module, rows: PreparedData, folder: Path, micro_batch_size: int, stop: int | None = None
) -> dict[str, str]:
    """Train, perhaps only up to a step, and return the sha256 of weights, optimizer and loss log."""
    runtime = tiny.runtime(micro_batch_size=micro_batch_size, checkpoint_every=2)
    seen: list[torch.optim.Optimizer] = []

    def step(optimizer: torch.optim.Optimizer, *_args: Any) -> None:
        seen.append(optimizer)
        if stop is not None and len(seen) == stop:
            raise Halfway

    handle = register_optimizer_step_pre_hook(step)
    try:
        tiny.fit(model, rows, tiny.recipe(num_steps=5, batch_size=4), folder, runtime=runtime)
    finally:
        handle.remove()
    moments = checkpoints.optimizer_tensors(model, seen[-1])
    log = json.dumps(tiny.log_of(folder))
    held = {name: tensor.detach().numpy().tobytes() for name, tensor in moments.items()}
    parts = {"weights": tiny.weights(model), "optimizer": held, "log": {"": log.encode()}}
    return {part: _sha256(content) for part, content in parts.items()}


def _sha256(content: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(name.encode() + content[name])
    return digest.hexdigest()


@pytest.mark.parametrize("packing", ["off", "isolated", "joined"])
@pytest.mark.parametrize("micro_batch_size", [4, 3], ids=["whole", "accumulated"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_resume_of_every_kind_of_run_gives_the_same_bytes(
    method: str, dropout: float, micro_batch_size: int, packing: str, base_folder: Path, tmp_path: Path
) -> None:
    rows = laid(packing)
    model = built(method, dropout, base_folder)
    expected = digests(model, rows, tmp_path / "control", micro_batch_size)
    with pytest.raises(Halfway):
        digests(built(method, dropout, base_folder), rows, tmp_path / "run", micro_batch_size, stop=4)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")] == ["step_00000002"]
    again = built(method, dropout, base_folder)
    assert digests(again, rows, tmp_path / "run", micro_batch_size) == expected


@pytest.mark.parametrize("lost", ["copy_into", "load_optimizer"])
def test_resume_without_a_part_of_the_state_is_seen(lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above must catch a run that goes on from less than everything."""
    expected = digests(tiny.lora(dropout=0.2), ROWS, tmp_path / "control", 3)
    with pytest.raises(Halfway):
        digests(tiny.lora(dropout=0.2), ROWS, tmp_path / "run", 3, stop=4)
    monkeypatch.setattr(checkpoints, lost, lambda *_args: None)
    found = digests(tiny.lora(dropout=0.2), ROWS, tmp_path / "run", 3)
    assert all(found[part] != expected[part] for part in expected)


def test_resume_continues_instead_of_starting_again(tmp_path: Path) -> None:
    interrupted(tiny.llama(), tmp_path, SPEC, 8)
    taken = stop_at(-1)
    handle = register_optimizer_step_pre_hook(taken)
    tiny.fit(tiny.llama(), ROWS, SPEC, tmp_path, runtime=SAVING)
    handle.remove()
    assert taken.taken == 3  # steps 7, 8 and 9: six were saved


def test_resume_under_early_stopping_remembers_the_best_weights(tmp_path: Path) -> None:
    spec = tiny.recipe(num_steps=60, batch_size=8, learning_rate=3e-2, eval_every=1, early_stopping_patience=3)
    expected = undisturbed(BUILDS["full"], tmp_path / "control", spec)
    num_steps = expected[0].num_steps
    assert expected[0].stopped_early
    interrupted(BUILDS["full"](), tmp_path / "run", spec, num_steps)  # the best is older than the checkpoint
    model = BUILDS["full"]()
    summary = tiny.fit(model, ROWS, spec, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected


class Second(Alone):
    """One of several processes that is not the main one, which goes on from step 9."""

    is_main = False

    def agreed(self, value: Any) -> Any:
        return value or 9


def test_resume_of_another_process_moves_no_log_that_the_main_one_already_writes(tmp_path: Path) -> None:
    undisturbed(BUILDS["full"], tmp_path)  # what follows the last checkpoint is in the logs
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    model = BUILDS["full"]()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path, runtime=SAVING, sample=one_sample, processes=Second())
    assert summary.num_steps == 9
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before


def test_resume_of_another_process_from_a_damaged_checkpoint_is_an_error_and_no_other_checkpoint(
    tmp_path: Path,
) -> None:
    undisturbed(BUILDS["full"], tmp_path)
    damage(tmp_path / "checkpoints" / "step_00000009" / "optimizer.safetensors")
    kept = sorted((tmp_path / "checkpoints").iterdir())
    with pytest.raises(StoreError, match=r"optimizer\.safetensors is damaged"):
        tiny.fit(BUILDS["full"](), ROWS, SPEC, tmp_path, runtime=SAVING, processes=Second())
    assert sorted((tmp_path / "checkpoints").iterdir()) == kept


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["trainable.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
def test_resume_sets_a_damaged_checkpoint_aside_and_takes_the_one_before(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = undisturbed(BUILDS["lora"], tmp_path / "control")
    interrupted(BUILDS["lora"](), tmp_path / "run", SPEC, 8)
    newest = max((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert newest.name == "step_00000006"
    damage(newest / name)
    model = BUILDS["lora"]()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected
    assert name in caplog.text
    assert "damaged_step_00000006" in caplog.text


def test_resume_without_any_intact_checkpoint_starts_again(tmp_path: Path) -> None:
    expected = undisturbed(BUILDS["lora"], tmp_path / "control")
    interrupted(BUILDS["lora"](), tmp_path / "run", SPEC, 8)
    for path in (tmp_path / "run" / "checkpoints").glob("step_*"):
        (path / "manifest.json").unlink()
    model = BUILDS["lora"]()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected


def manifest_without_a_name(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def manifest_of_files_elsewhere(folder: Path) -> None:
    named = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({f"../{folder.name}/{name}": named[name] for name in named}))


def manifest_of_numbers(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps(dict.fromkeys(os.listdir(folder), 3)))


def empty_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"")


def folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "state.json").unlink()
    (folder / "state.json").mkdir()


def cut_with_a_manifest_that_fits(folder: Path) -> None:
    os.truncate(folder / "optimizer.safetensors", 40)
    write_manifest(folder)


def file_in_place_of_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


@pytest.mark.parametrize(
    "spoil",
    [
        manifest_without_a_name, manifest_of_files_elsewhere, manifest_of_numbers, empty_files,
        folder_in_place_of_a_file, cut_with_a_manifest_that_fits, file_in_place_of_the_folder,
    ],
)  # fmt: skip
def test_resume_from_a_spoiled_checkpoint_takes_the_one_before(spoil: Any, tmp_path: Path) -> None:
    expected = undisturbed(BUILDS["lora"], tmp_path / "control")
    interrupted(BUILDS["lora"](), tmp_path / "run", SPEC, 8)
    spoil(tmp_path / "run" / "checkpoints" / "step_00000006")
    model = BUILDS["lora"]()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("damaged_*")] == ["damaged_step_00000006"]


def test_resume_leaves_alone_what_does_not_belong_to_a_checkpoint(tmp_path: Path) -> None:
    expected = undisturbed(BUILDS["lora"], tmp_path / "control")
    interrupted(BUILDS["lora"](), tmp_path / "run", SPEC, 8)
    (tmp_path / "run" / "checkpoints" / "step_00000006" / "foreign.safetensors").write_bytes(b"no tensors")
    model = BUILDS["lora"]()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected


def test_resume_ignores_a_log_cut_short_after_the_checkpoint_was_saved(tmp_path: Path) -> None:
    expected = undisturbed(BUILDS["lora"], tmp_path / "control")
    interrupted(BUILDS["lora"](), tmp_path / "run", SPEC, 8)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:300])
    model = BUILDS["lora"]()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected


def test_resume_cuts_a_torn_row_off_the_log(tmp_path: Path) -> None:
    expected = undisturbed(BUILDS["lora"], tmp_path / "control")
    interrupted(BUILDS["lora"](), tmp_path / "run", SPEC, 8)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 8, "train/lo')
    model = BUILDS["lora"]()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected


@pytest.mark.parametrize("other", ["recipe", "seed", "base", "rows"])
def test_resume_never_continues_another_run(other: str, tmp_path: Path) -> None:
    interrupted(tiny.lora(seed=0), tmp_path / "run", SPEC, 8)
    spec = SPEC.replace({"learning_rate": 1e-3}) if other == "recipe" else SPEC
    seed = 1 if other == "seed" else 0
    base_seed = 1 if other == "base" else 0
    rows = tiny.prepared(tiny.examples(20, seed=5), ROWS.validation) if other == "rows" else ROWS
    models = tiny.lora(seed=base_seed), tiny.lora(seed=base_seed)
    for model, folder in zip(models, (tmp_path / "run", tmp_path / "fresh"), strict=True):
        tiny.fit(model, rows, spec, folder, seed=seed, runtime=SAVING, sample=one_sample)
    assert outcome(models[0], tmp_path / "run") == outcome(models[1], tmp_path / "fresh")


def test_checkpoints_left_behind_stay_bounded_and_hold_no_pickle(tmp_path: Path) -> None:
    spec = tiny.recipe(num_steps=9)
    interrupted(tiny.llama(), tmp_path, spec, 9)
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert folders == ["step_00000006", "step_00000008"]
    assert len(folders) == checkpoints.KEEP
    suffixes = {path.suffix for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json"}


def test_resume_sweeps_a_checkpoint_that_was_being_written(tmp_path: Path) -> None:
    expected = undisturbed(BUILDS["lora"], tmp_path / "control")
    interrupted(BUILDS["lora"](), tmp_path / "run", SPEC, 8)
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step_00000006", folder / ".step_00000008.building")
    (folder / ".step_00000008.building" / "manifest.json").unlink()
    model = BUILDS["lora"]()
    summary = tiny.fit(model, ROWS, SPEC, tmp_path / "run", runtime=SAVING, sample=one_sample)
    assert (summary, *outcome(model, tmp_path / "run")) == expected


def test_checkpoint_on_a_full_disk_says_so_and_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(DiskError, match=r"no space left to write .*step_00000002"):
        tiny.fit(tiny.llama(), ROWS, SPEC, tmp_path, runtime=SAVING)
    assert not list((tmp_path / "checkpoints").glob("step_*"))


LONG = tiny.recipe(num_steps=120, eval_every=20)
OFTEN = tiny.runtime(micro_batch_size=3, checkpoint_every=10)
TO_BE_KILLED = """
import sys
from pathlib import Path
from tests.train import test_resume as t, tiny
tiny.fit(t.BUILDS["lora"](), t.ROWS, t.LONG, Path(sys.argv[1]), runtime=t.OFTEN, sample=t.one_sample)
"""


def test_resume_after_sigkill_of_the_process_gives_the_same_bytes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TO_BE_KILLED, str(tmp_path / "run")], cwd=Path(__file__).parents[2]
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and num_rows(tmp_path / "run") < 25 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list((tmp_path / "run" / "checkpoints").glob("step_*"))
    outcomes = []
    for name in ("run", "control"):
        model = BUILDS["lora"]()
        summary = tiny.fit(model, ROWS, LONG, tmp_path / name, runtime=OFTEN, sample=one_sample)
        outcomes.append((summary, *outcome(model, tmp_path / name)))
    assert outcomes[0] == outcomes[1]


def num_rows(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
