"""Which folder on disk a base reference means.

Invariant: a base is used only after its bytes were checked against its manifest or, for a local folder, against the
hash in the reference. Nothing is downloaded or built here, save the merge of another trial's adapter into its base.
What does not live here: what a folder must hold (files.py), building a pocket base, fetching.
"""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path

from harness.errors import ModelError
from harness.identity import base_ref_key
from harness.models.files import TOKENIZER_MODELS, BaseFiles, content_sha256, inspect_folder, verify_folder
from harness.models.merge import write_merged
from harness.records import result
from harness.records.schema import TrialResult
from harness.records.store import MANIFEST, Store
from harness.spec import ArtefactBase, BaseRef, FolderBase, FullConfig, HubBase, PocketBase, QLoraConfig, TrialBase

ORIGIN = "origin.json"
"""Beside fetched weights: what they were made from."""


def fetched_key(base: ArtefactBase | HubBase) -> str:
    """Return the key of fetched weights under `Store.artefact("fetched", ...)`."""
    if isinstance(base, ArtefactBase):
        return base.name
    return hub_key("model", base.repo_id, base.revision)


def hub_key(repo_type: str, repo_id: str, revision: str) -> str:
    """Return the key of a hub snapshot under `Store.artefact("fetched", ...)`."""
    return f"{repo_type}--{repo_id.replace('/', '--')}--{revision}"


def locate(base: BaseRef, store: Store) -> BaseFiles:
    """Return a base's files, checked.

    Raises:
        ModelError: the base is not there yet, is damaged, or is not a whole model; the sentence says how to mend it.
    """
    if isinstance(base, PocketBase):
        return _locate_artefact("base", base_ref_key(base), store, "run the sweep again to build it")
    if isinstance(base, ArtefactBase):
        return _locate_package(base, store)
    if isinstance(base, HubBase):
        remedy = f"run make fetch for the experiment that names {base.repo_id}"
        return _locate_artefact("fetched", fetched_key(base), store, remedy)
    if isinstance(base, FolderBase):
        return _locate_folder(base)
    return _locate_trial(base, store)


def _locate_artefact(kind: str, key: str, store: Store, remedy: str) -> BaseFiles:
    folder = store.artefact(kind, key)
    if not store.has_artefact(kind, key):
        raise ModelError(f"the base in {folder} is missing, but must be there before a trial starts; {remedy}")
    verify_folder(folder, remedy=f"delete that folder, then {remedy}")
    return inspect_folder(folder)


def _locate_package(base: ArtefactBase, store: Store) -> BaseFiles:
    remedy = f"run make fetch BASE={base.name}"
    files = _locate_artefact("fetched", base.name, store, remedy)
    held = json.loads((files.folder / ORIGIN).read_text()).get("gguf_sha256")
    if held != base.gguf_sha256:
        raise ModelError(
            f"base.gguf_sha256 is {base.gguf_sha256!r}, but {files.folder} was made from {held!r}; "
            f"delete that folder, then {remedy}"
        )
    return files


def _locate_folder(base: FolderBase) -> BaseFiles:
    files = inspect_folder(Path(base.path))
    held = content_sha256(files.folder)
    if held != base.content_sha256:
        raise ModelError(
            f"base.content_sha256 is {base.content_sha256[:12]}..., but {base.path} now holds {held[:12]}...; "
            "restore the folder, or plan again to name the new contents"
        )
    return files


def _locate_trial(base: TrialBase, store: Store) -> BaseFiles:
    trained = _finished_trial(base, store)
    weights = store.trial(base.trial_id) / "weights"
    remedy = f"run: {_keeping(base, store)}"
    if not (weights / MANIFEST).is_file():
        raise ModelError(f"trial {base.trial_id[:12]} kept no weights, but must have to be a base; {remedy}")
    verify_folder(weights, remedy=f"delete that folder, then {remedy}")
    own = locate(trained.spec.base, store)
    has_tokenizer = any((weights / name).is_file() for name in TOKENIZER_MODELS)
    tokenizer_folder = weights if has_tokenizer else own.tokenizer_folder
    if isinstance(trained.spec.method, FullConfig):
        return inspect_folder(weights, tokenizer_folder=tokenizer_folder)
    method = trained.spec.method
    quantisation = method.base_quantisation if isinstance(method, QLoraConfig) else None
    build = partial(write_merged, own, weights, quantisation, tokenizer_folder)
    folder = store.ensure_artefact("merged", base.trial_id, build)
    verify_folder(folder, remedy="delete that folder and run the same command again")
    return inspect_folder(folder)


def _finished_trial(base: TrialBase, store: Store) -> TrialResult:
    trained = result.read(store.trial(base.trial_id))
    if trained is None:
        raise ModelError(
            f"base.trial_id is {base.trial_id!r}, but must be a finished trial under {store.root}; "
            """run its sweep first, with SET='{"runtime.keep": "all"}'"""
        )
    if trained.state == "DIVERGED":
        raise ModelError(f"base.trial_id is {base.trial_id!r}, but that trial DIVERGED; choose one that is COMPLETE")
    return trained


def _keeping(base: TrialBase, store: Store) -> str:
    """Return the command that gives a finished trial its weights, in the store that its result lies in."""
    root = (store.trial(base.trial_id) / result.RESULT).resolve().parents[2]
    return shlex.join(["python", "-m", "harness", "run-trial", base.trial_id, "--keep", "all", "--out", str(root)])
