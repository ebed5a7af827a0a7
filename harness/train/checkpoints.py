"""Checkpoints inside a trial: complete or not there at all, and bit-exact to continue from on CPU.

    checkpoints/step_00000040/   <group>.safetensors, state.json, manifest.json

Tensors are safetensors, everything else JSON; nothing is pickled. A checkpoint is written into a temporary folder,
gets its manifest, and appears by one rename. Invariant: `newest` returns only what verifies byte for byte and belongs
to this very run; anything damaged is set aside under another name and the one before it is taken. What does not live
here: what the state means (loop.py).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from harness.errors import StoreError
from harness.records import store
from harness.train import log
from harness.train.placed import like

KEEP = 2
"""Complete checkpoints kept: the newest, and one to fall back on should it be damaged."""
ENDING = ".safetensors"
OPTIMIZER = "optimizer"
"""How the names of the files with the optimizer's state begin: one, or one for each quantity that shares hold."""
NEEDED = ("state.json", f"trainable{ENDING}", OPTIMIZER, f"rng{ENDING}")
"""How the names of files begin without which there is nothing to continue from."""
_log = logging.getLogger(__name__)
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Loaded:
    """A verified checkpoint."""

    groups: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]
    lengths: dict[Path, int]
    """Of the logs when it was saved, in bytes."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one trial."""

    folder: Path
    identity: str
    """Whatever must be equal for a checkpoint to be continued from."""
    logs: tuple[Path, ...]
    """Logs that are cut back to where they were when a checkpoint is continued from."""

    def save(self, step: int, groups: Iterable[tuple[str, Tensors]], state: dict[str, Any]) -> None:
        """Write a checkpoint and remove all but the newest `KEEP`.

        Args:
            step: the steps taken.
            groups: names and tensors, each of which is written before the next is asked for.
            state: what else a run is continued from.

        Raises:
            DiskError: the disk is full or read-only.
        """
        target = self._folder_of(step)
        building = self.folder / f".{target.name}.building"
        with store.disk_errors(target):
            for leftover in (*self.folder.glob(".*.building"), target):
                shutil.rmtree(leftover, ignore_errors=True)
            building.mkdir(parents=True)
            for name, tensors in groups:
                save_file(_storable(tensors), building / f"{name}{ENDING}")
                del tensors
            marks = {path.name: log.seal(path) for path in self.logs}
            content = {"identity": self.identity, "logs": marks, "state": state}
            (building / "state.json").write_text(json.dumps(content, allow_nan=False))
            store.write_manifest(building)
            os.rename(building, target)
            store.fsync_folder(self.folder)
            for old in self._complete()[KEEP:]:
                shutil.rmtree(old)

    def newest(self) -> Loaded | None:
        """Return the newest checkpoint that verifies, with the logs cut back to it; None where there is none."""
        for path in self._complete():
            try:
                loaded = self._load(path)
            except StoreError as error:
                aside = path.with_name(f"damaged_{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(path, aside)
                _log.warning("%s; set aside as %s", error, aside)
            else:
                for log_path, length in loaded.lengths.items():
                    os.truncate(log_path, length)
                return loaded
        return None

    def of_step(self, step: int) -> Loaded:
        """Return the checkpoint that another process of the run goes on from; nothing on the disk moves.

        Raises:
            StoreError: it does not verify.
        """
        return self._load(self._folder_of(step))

    def discard(self) -> None:
        """Remove every checkpoint, complete or not."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"

    def _complete(self) -> list[Path]:
        """Return the checkpoint folders, newest first."""
        return sorted(self.folder.glob("step_*"), reverse=True)

    def _load(self, path: Path) -> Loaded:
        manifest = store.verify_manifest(path)
        if not all(any(name.startswith(needed) for name in manifest) for needed in NEEDED):
            raise StoreError(f"{path} is damaged: {store.MANIFEST} does not name {', '.join(NEEDED)}")
        content = json.loads((path / "state.json").read_text())
        if content["identity"] != self.identity or content["logs"].keys() != {path.name for path in self.logs}:
            raise StoreError(f"{path} belongs to another recipe, base or machine setting")
        for log_path in self.logs:
            if not log.holds(log_path, content["logs"][log_path.name]):
                raise StoreError(f"{log_path} no longer begins with the rows that {path} was saved after")
        try:
            groups = {name.removesuffix(ENDING): load_file(path / name) for name in manifest if name.endswith(ENDING)}
        except SafetensorError as error:
            raise StoreError(f"{path} is damaged: it holds no tensors ({error})") from error
        return Loaded(groups, content["state"], {path: content["logs"][path.name]["bytes"] for path in self.logs})


def _storable(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained parameters by name, sharing their storage."""
    return {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as `<parameter>/<quantity>`."""
    return {
        f"{name}/{quantity}": tensor
        for name, parameter in model.named_parameters()
        for quantity, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name, quantity = key.rsplit("/", 1)
        optimizer.state[parameters[name]][quantity] = like(tensor, parameters[name])


def rng_tensors() -> dict[str, torch.Tensor]:
    """Return the state of torch's generators, CPU and every GPU."""
    states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state()} | {f"cuda_{index}": state for index, state in enumerate(states)}


def load_rng(tensors: Tensors) -> None:
    """Put back what `rng_tensors` returned."""
    torch.set_rng_state(tensors["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensors[f"cuda_{index}"] for index in range(len(tensors) - 1)])


def copy_into(model: nn.Module, tensors: Tensors) -> None:
    """Overwrite trained parameters by name."""
    for name, parameter in trainable(model).items():
        parameter.copy_(like(tensors[name], parameter))
