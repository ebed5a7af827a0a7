"""Memory that runs out in a step: the same step in smaller passes, and what is said where that does not help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from harness.data.packing import joined
from harness.errors import TooLittleMemoryError, is_out_of_memory
from harness.models import Halvings
from harness.spec import Runtime
from harness.train import batches, losses
from tests.train import tiny

ROOT = Path(__file__).parents[2]
ROWS = tiny.prepared(tiny.examples(32, seed=1))
TOLERANCE = 2e-5
"""Of weights: a small share of the 6 x 3e-3 that one can travel, as for micro-batches in test_loop.py."""


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Make forward passes of more than so many rows run out of memory; return a list that gets the rows of each."""

    def at_most(num_rows: int) -> list[int]:
        tried: list[int] = []
        own = losses.objective

        def objective(model: nn.Module, batch: batches.MicroBatch, head: Any) -> Any:
            tried.append(len(batch.input_ids_BT))
            result = own(model, batch, head)
            if len(batch.input_ids_BT) > num_rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")
            return result

        monkeypatch.setattr(losses, "objective", objective)
        return tried

    return at_most


def undisturbed(folder: Path, **changes: Any) -> tuple[nn.Module, list[dict[str, Any]]]:
    model = tiny.llama()
    tiny.fit(model, ROWS, tiny.recipe(**changes), folder)
    return model, tiny.log_of(folder)


def test_step_that_runs_out_of_memory_is_taken_again_in_halves(fits: Any, tmp_path: Path) -> None:
    expected, log = undisturbed(tmp_path / "undisturbed")
    tried, model = fits(2), tiny.llama()
    summary = tiny.fit(model, ROWS, tiny.recipe(), tmp_path / "disturbed")
    assert tried[:6] == [8, 4, 2, 2, 2, 2]
    assert max(tried[3:]) == 2, "the halved size holds for the rest of the run"
    assert (summary.num_halvings, summary.micro_batch_size) == (2, 2)
    for row, other in zip(tiny.log_of(tmp_path / "disturbed"), log, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
        assert row["train/num_loss_tokens"] == other["train/num_loss_tokens"]
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_step_that_keeps_half_a_gradient_is_caught(fits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry on top of what the failed pass left counts rows twice: the comparison above must see it."""
    monkeypatch.setattr("harness.train.out_of_memory._let_go", lambda run: None)
    _, log = undisturbed(tmp_path / "undisturbed")
    own, calls = losses.objective, []

    def second_pass_fails(model: nn.Module, batch: batches.MicroBatch, head: Any) -> Any:
        calls.append(len(batch.input_ids_BT))
        if len(calls) == 2:
            raise MemoryError
        return own(model, batch, head)

    monkeypatch.setattr(losses, "objective", second_pass_fails)
    tiny.fit(tiny.llama(), ROWS, tiny.recipe(), tmp_path / "broken", runtime=tiny.runtime(micro_batch_size=4))
    first, expected = tiny.log_of(tmp_path / "broken")[0], log[0]
    assert first["train/grad_norm"] != pytest.approx(expected["train/grad_norm"], rel=1e-3)


def test_micro_batch_larger_than_the_batch_is_halved_from_the_batch(fits: Any, tmp_path: Path) -> None:
    tried = fits(4)
    runtime = tiny.runtime(micro_batch_size=64)
    summary = tiny.fit(tiny.llama(), ROWS, tiny.recipe(), tmp_path, runtime=runtime)
    assert tried[:3] == [8, 4, 4]
    assert summary.num_halvings == 1


def test_memory_that_runs_out_after_three_halvings_fails_with_the_size(fits: Any, tmp_path: Path) -> None:
    fits(1)
    rows, spec = tiny.prepared(tiny.examples(64, seed=1)), tiny.recipe(batch_size=32)
    with pytest.raises(
        TooLittleMemoryError, match=r"micro_batch_size is 32, but must be below 4 .*3 halvings"
    ) as error:
        tiny.fit(tiny.llama(), rows, spec, tmp_path, runtime=tiny.runtime(micro_batch_size=32))
    assert "\n" not in str(error.value)
    assert error.value.cause_class == "oom"


def test_row_that_does_not_fit_alone_says_so(fits: Any, tmp_path: Path) -> None:
    fits(0)
    longest = max(len(row.input_ids) for row in ROWS.train)
    with pytest.raises(TooLittleMemoryError, match=r"^one row of \d+ tokens does not fit .*data.max_length") as error:
        tiny.fit(tiny.llama(), ROWS, tiny.recipe(), tmp_path / "row")
    assert int(re.findall(r"\d+", str(error.value))[0]) <= longest
    packed = tiny.prepared([joined(tiny.examples(5, seed=seed)) for seed in range(8)])
    with pytest.raises(TooLittleMemoryError, match=r"^one packed row of 5 examples and \d+ tokens does not fit"):
        tiny.fit(tiny.llama(), packed, tiny.recipe(), tmp_path / "packed")


def test_another_runtime_error_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_args: Any) -> Any:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(losses, "objective", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        tiny.fit(tiny.llama(), ROWS, tiny.recipe(), tmp_path)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_resumed_run_goes_on_at_the_halved_size(fits: Any, tmp_path: Path) -> None:
    runtime = tiny.runtime(checkpoint_every=2)
    fits(4)
    whole = tiny.llama()
    tiny.fit(whole, ROWS, tiny.recipe(), tmp_path / "whole", runtime=runtime)
    interrupted(tiny.llama(), tmp_path / "stopped", runtime)
    tried, resumed = fits(4), tiny.llama()
    summary = tiny.fit(resumed, ROWS, tiny.recipe(), tmp_path / "stopped", runtime=runtime)
    assert set(tried) == {4}, "nothing is tried at the size that did not fit"
    assert summary.num_halvings == 1
    assert tiny.weights(resumed) == tiny.weights(whole)


def test_validation_that_runs_out_of_memory_is_halved_for_the_rest_of_the_trial(fits: Any, tmp_path: Path) -> None:
    rows = tiny.prepared(tiny.examples(32, seed=1), tiny.examples(12, seed=2))
    runtime = tiny.runtime(micro_batch_size=2, eval_batch_size=12, checkpoint_every=2)
    spec = tiny.recipe(eval_every=2)
    tiny.fit(tiny.llama(), rows, spec, tmp_path / "whole", runtime=runtime)
    halvings, tried = Halvings(), fits(3)
    context = tiny.Context(runtime, eval_halvings=halvings)
    summary = tiny.fit(tiny.llama(), rows, spec, tmp_path / "halved", context=context)
    assert (halvings.count, summary.num_halvings) == (2, 0)
    assert [size for size in tried if size > 3] == [12, 6]
    ours, theirs = (tiny.log_of(tmp_path / name, only="val/loss") for name in ("halved", "whole"))
    assert [row["val/loss"] for row in ours] == pytest.approx([row["val/loss"] for row in theirs], rel=1e-6)
    assert tiny.log_of(tmp_path / "halved") == tiny.log_of(tmp_path / "whole")


def interrupted(model: nn.Module, folder: Path, runtime: Runtime) -> None:
    """Train until the fifth step is about to be taken."""
    taken: list[int] = []

    def stop(_optimizer: torch.optim.Optimizer, *_args: Any) -> None:
        taken.append(1)
        if len(taken) == 5:
            raise KeyboardInterrupt

    handle = register_optimizer_step_pre_hook(stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            tiny.fit(model, ROWS, tiny.recipe(), folder, runtime=runtime)
    finally:
        handle.remove()


def test_run_that_is_told_to_halve_begins_so(fits: Any, tmp_path: Path) -> None:
    tried = fits(2)
    summary = tiny.fit(tiny.llama(), ROWS, tiny.recipe(), tmp_path, runtime=tiny.runtime(num_halvings=2))
    assert set(tried) == {2}
    assert (summary.num_halvings, summary.micro_batch_size) == (2, 2)


LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from tests.train import tiny

torch.manual_seed(0)
config = LlamaConfig(vocab_size=tiny.VOCAB, hidden_size=64, intermediate_size=4096, num_hidden_layers=1,
                     num_attention_heads=2, tie_word_embeddings=True)
model = LlamaForCausalLM(config)
rows = tiny.prepared(tiny.examples(32, seed=1, longest=100))
torch.ones(512, 512) @ torch.ones(512, 512)
used = next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmSize"))
spare = int(sys.argv[2])
if spare:
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, used + spare))
spec = tiny.recipe(num_steps=2, batch_size=32)
summary = tiny.fit(model, rows, spec, Path(sys.argv[1]), runtime=tiny.runtime(micro_batch_size=32))
print(json.dumps([summary.num_halvings, summary.num_loss_tokens, summary.train_loss_last]))
"""


def limited(folder: Path, spare_bytes: int) -> list[Any]:
    command = [sys.executable, "-c", LIMITED, str(folder), str(spare_bytes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_allocations_that_the_system_refuses_halve_the_micro_batch(tmp_path: Path) -> None:
    free, tight = limited(tmp_path / "free", 0), limited(tmp_path / "tight", 160 * 2**20)
    assert free[0] == 0
    assert 1 <= tight[0] <= 3
    assert tight[1] == free[1]
    assert tight[2] == pytest.approx(free[2], rel=1e-4)
