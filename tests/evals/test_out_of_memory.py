"""Memory that runs out in an evaluation: the same scores from fewer rows together, and what is said where none fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from harness.errors import TooLittleMemoryError, is_out_of_memory
from harness.evals import divergence, generation, item_rows, likelihood
from harness.evals.forward import selected_logits
from harness.evals.likelihood import Request, log_likelihoods
from harness.identity import base_key
from harness.models import Halvings
from harness.pocket import pretrain
from harness.records.schema import TrialResult
from harness.records.store import Store
from harness.spec import PocketBase, TrialSpec
from harness.trial import TrialContext, run_trial
from tests.evals import small
from tests.pocket.tiny import tiny_experiment

TOLERANCE = 1e-5
"""Of log-probabilities and means of them in float32: one product of a few hundred terms, added in another order."""


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Make passes of an evaluation over more rows run out of memory; return a list that gets the rows of each."""

    def at_most(num_rows: int) -> list[int]:
        tried: list[int] = []

        def limited(model: Any, ids_BT: torch.Tensor, *args: Any, **options: Any) -> Any:
            tried.append(len(ids_BT))
            found = selected_logits(model, ids_BT, *args, **options)
            if len(ids_BT) > num_rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")
            return found

        for module in (likelihood, generation, divergence):
            monkeypatch.setattr(module, "selected_logits", limited)
        return tried

    return at_most


def assert_alike(one: Any, other: Any) -> None:
    """Floats within floating-point order, everything else equal."""
    assert type(one) is type(other)
    if isinstance(one, float):
        assert one == pytest.approx(other, rel=TOLERANCE, abs=TOLERANCE, nan_ok=True)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_alike(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_alike(left, right)
    else:
        assert one == other


def test_items_scored_in_halves_have_the_same_scores(fits: Callable[[int], list[int]], tmp_path: Path) -> None:
    spec = small.evals(*small.every_kind(tmp_path))
    whole = item_rows(small.llama(), small.chat(), spec, batch_size=12)
    tried = fits(3)
    halved = item_rows(small.llama(), small.chat(), spec, batch_size=12)
    assert max(tried) > 3
    assert_alike([tuple(row) for row in halved], [tuple(row) for row in whole])
    assert any(row.value is not None and math.isfinite(row.value) for row in whole)


def test_halves_that_lose_a_request_are_caught() -> None:
    """A computation that goes on with what the failed pass left gives other scores: the comparison must see it."""
    whole = [1.0, 2.0, 3.0, 4.0]
    kept: list[float] = []

    def keeps_what_failed(num_rows: int) -> list[float]:
        kept.extend(whole)
        if num_rows > 2:
            raise MemoryError
        return kept

    with pytest.raises(AssertionError):
        assert_alike(Halvings().in_what_fits(keeps_what_failed, 4, 4), whole)


def test_halving_holds_fewer_tokens_and_logits_where_these_decide() -> None:
    """On a CPU the tokens held at once decide, not the rows: half of them must be fewer rows as well."""
    tokens = tuple(range(1, 60))
    requests = [Request((9, number % 50 + 1, *tokens[:40]), tokens[40:]) for number in range(60)]
    widths: list[list[int]] = []
    for num_halvings in (0, 2):
        tried: list[int] = []
        model = small.llama()
        model.register_forward_pre_hook(
            lambda _module, _args, options, tried=tried: tried.append(options["input_ids"].numel()), with_kwargs=True
        )
        with torch.no_grad():
            log_likelihoods(model, requests, batch_size=60, max_length=500, num_halvings=num_halvings)
        widths.append(tried)
    assert max(widths[1]) <= max(widths[0]) / 2


def test_halvings_are_at_most_three_and_end_at_one_row() -> None:
    def never(_num_rows: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    with pytest.raises(TooLittleMemoryError, match=r"eval_batch_size is 64, but must be below 8 .*3 halvings") as error:
        Halvings().in_what_fits(never, 64, 1000)
    assert "\n" not in str(error.value)
    with pytest.raises(TooLittleMemoryError, match="one row of an evaluation does not fit"):
        Halvings().in_what_fits(never, 64, 4)
    halvings = Halvings()
    with pytest.raises(RuntimeError, match="shape"):
        halvings.in_what_fits(lambda _: (_ for _ in ()).throw(RuntimeError("shape")), 64, 4)
    assert halvings.count == 0


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_outside_of_torch_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(OSError(5, "Input/output error"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


# -- a whole trial ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("memory"))
    base = tiny_experiment().spec.base
    assert isinstance(base, PocketBase)
    key = base_key(tiny_experiment().spec)
    store.ensure_artefact("base", key, lambda folder: pretrain.build(base, folder, lambda **_: None))
    return store


def ran(spec: TrialSpec, store: Store, root: Path, **changes: Any) -> TrialResult:
    """Run a trial in a folder of its own that shares the base."""
    (root / "artefacts").mkdir(parents=True)
    (root / "artefacts" / "base").symlink_to(store.root / "artefacts" / "base")
    runtime = tiny_experiment().runtime.replace({"device": "cpu"} | changes)
    return run_trial(spec, TrialContext(Store(root), runtime, command="", report=lambda **_: None))


def test_trial_whose_evaluation_runs_out_of_memory_records_how_often(
    fits: Callable[[int], list[int]], store: Store, tmp_path: Path
) -> None:
    spec = tiny_experiment().spec.replace(
        {"evals.val_share": 0.5, "probes.drift": "on", "probes.drift_texts": 8, "train.eval_every": 2}
    )
    whole = ran(spec, store, tmp_path / "whole")
    tried = fits(4)
    halved = ran(spec, store, tmp_path / "halved")
    assert (whole.train.num_eval_halvings, whole.train.num_halvings) == (0, 0)
    assert 1 <= halved.train.num_eval_halvings <= 3
    assert halved.train.num_halvings == 0
    assert halved.train == whole.train.model_copy(update={"num_eval_halvings": halved.train.num_eval_halvings})
    too_large = [place for place, rows in enumerate(tried) if rows > 4]
    assert len(too_large) == halved.train.num_eval_halvings, "the size that fitted holds for the rest of the trial"
    assert halved.after is not None
    assert whole.after is not None
    for ours, theirs in ((halved.after, whole.after), (halved.before, whole.before), (halved.drift, whole.drift)):
        assert ours is not None
        assert theirs is not None
        assert_alike(ours.model_dump(), theirs.model_dump())
    rows = [
        pq.read_table(tmp_path / name / "trials" / whole.trial_id / "items.parquet") for name in ("halved", "whole")
    ]
    assert_alike(rows[0].to_pylist(), rows[1].to_pylist())


def test_drift_whose_base_runs_out_of_memory_switches_the_adapter_on_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out while the adapter is off: what is computed again must not be of the base alone."""
    lora = {"kind": "lora", "rank": 4, "alpha": 8.0, "target_modules": "all_linear"}
    fields = {"method": lora, "evals.val_share": 0.5, "probes.drift": "on", "probes.drift_texts": 8}
    spec = tiny_experiment().spec.replace(fields)
    whole = ran(spec, store, tmp_path / "whole")
    calls: list[int] = []

    def second_runs_out(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # of a batch the trained model comes first, then the base
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return selected_logits(*args, **options)

    monkeypatch.setattr(divergence, "selected_logits", second_runs_out)
    halved = ran(spec, store, tmp_path / "halved")
    assert halved.train.num_eval_halvings == 1
    assert halved.drift is not None
    assert whole.drift is not None
    assert (halved.drift.values["answers/kl_base_tuned"] or 0) > 0
    assert_alike(halved.drift.model_dump(), whole.drift.model_dump())


def test_trial_that_is_told_to_halve_its_evaluation_begins_so(
    fits: Callable[[int], list[int]], store: Store, tmp_path: Path
) -> None:
    tried = fits(10**9)
    size = tiny_experiment().runtime.eval_batch_size
    told = ran(tiny_experiment().spec, store, tmp_path / "told", num_eval_halvings=3)
    assert told.train.num_eval_halvings == 3
    assert max(tried) <= size // 8
