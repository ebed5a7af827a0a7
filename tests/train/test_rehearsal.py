"""What a probe tries for the sake of memory: which steps, which sizes, and that it leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from harness.engine import footprint
from harness.engine.measurement import Measurement
from harness.methods import held_bytes
from harness.train import loop, rehearsal
from tests.specs import pinned_spec
from tests.train import tiny

ROOT = Path(__file__).parents[2]
ROWS = tiny.prepared(tiny.examples(32, seed=1), tiny.examples(4, seed=2))
REHEARSES = {"rehearses": True}


def fitted(model: nn.Module, folder: Path, **runtime: Any) -> list[dict[str, Any]]:
    """Train, and return what was rehearsed."""
    tiny.fit(model, ROWS, tiny.recipe(num_steps=3), folder, runtime=tiny.runtime(**runtime))
    return tiny.log_of(folder, only="rehearsal/rows_per_pass")


@pytest.mark.parametrize("make", [tiny.llama, tiny.lora])
def test_rehearsal_moves_no_weight_no_log_and_no_generator(make: Any, tmp_path: Path) -> None:
    plain, rehearsed = make(), make()
    assert fitted(plain, tmp_path / "plain") == []
    state = torch.get_rng_state()
    assert fitted(rehearsed, tmp_path / "rehearsed", **REHEARSES)
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny.weights(plain) == tiny.weights(rehearsed)
    assert tiny.log_of(tmp_path / "plain") == tiny.log_of(tmp_path / "rehearsed")
    assert all(parameter.grad is None for parameter in rehearsed.parameters())


def test_rehearsal_tries_every_size_up_to_that_of_a_pass_on_the_heaviest_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[int]] = []
    own = loop._backward

    def backward(run: Any, rows: Any) -> Any:
        tried.append([run.forward_size, max(len(row.input_ids) for row in rows)])
        return own(run, rows)

    monkeypatch.setattr(loop, "_backward", backward)
    log = fitted(tiny.llama(), tmp_path, micro_batch_size=6, **REHEARSES)
    assert list(dict.fromkeys(size for size, _ in tried[3:])) == [1, 2, 4, 6]
    longest = max(len(row.input_ids) for row in ROWS.train)
    assert {size for size, length in tried[3:] if length == longest} == {1, 2, 4, 6}
    assert log[0]["rehearsal/rows_per_pass"] == 6, "the steps before it count as well"
    assert all(row["rehearsal/peak_bytes"] > 0 for row in log)


def test_rehearsal_with_dropout_has_the_peaks_of_single_rows_under_the_size_that_was_asked_for(tmp_path: Path) -> None:
    log = fitted(tiny.lora(dropout=0.1), tmp_path, micro_batch_size=6, **REHEARSES)
    peaks = {
        size: [row["rehearsal/peak_bytes"] for row in log if row["rehearsal/rows_per_pass"] == size] for size in (1, 6)
    }
    assert peaks[1] == peaks[6]
    assert len(log) == 2 * len(peaks[1]) >= 4
    assert sum(row["rehearsal/seconds"] for row in log if row["rehearsal/rows_per_pass"] == 6) == 0.0


def test_rehearsal_heaviest_steps_by_hand() -> None:
    # Steps of two rows; the second one's later pass is the longest, the third one's first.
    assert rehearsal.sizes(1) == [1]
    assert rehearsal.sizes(8) == [1, 2, 4, 8]
    assert rehearsal.sizes(6) == [1, 2, 4, 6]

    class Rows:
        reads_itself_alone = False

    class Fake:
        rows = Rows

    run: Any = Fake
    assert rehearsal._passes([3, 9, 4, 5], 2, run) == [18, 8]
    assert rehearsal._passes([3, 9, 4], 2, run) == [18, 3]
    Rows.reads_itself_alone = True
    assert rehearsal._passes([3, 9, 4, 5], 2, run) == [14, 7]


@pytest.mark.parametrize("make", [tiny.llama, tiny.lora])
def test_held_bytes_are_those_of_weights_gradients_and_the_optimizer_itself(make: Any, tmp_path: Path) -> None:
    seen: dict[str, int] = {}
    model = make()

    def step(optimizer: Any, *_: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        seen["gradient_bytes"] = sum(grad.nbytes for grad in grads if grad is not None)
        moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
        seen["optimiser_bytes"] = sum(moment.nbytes for moment in moments)

    handle = register_optimizer_step_post_hook(step)
    try:
        fitted(model, tmp_path)
    finally:
        handle.remove()
    held = held_bytes(model)
    assert {name: held[name] for name in seen} == seen
    adapters = sum(p.nbytes for name, p in model.named_parameters() if "lora_" in name)
    assert held["adapter_bytes"] == adapters
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert held["weights_bytes"] == sum(p.nbytes for p in model.parameters()) - adapters + buffers


PROGRAM = """
import json, os, sys, tempfile
from pathlib import Path
from harness.engine import heap
heap.keep_freed(os.environ)
from transformers import LlamaConfig, LlamaForCausalLM
from harness.engine import footprint
from harness.engine.measurement import Measurement
from harness.methods import held_bytes
from harness.records.provenance import Clock
from tests.train import tiny

CONFIG = LlamaConfig(vocab_size=tiny.VOCAB, hidden_size=384, intermediate_size=1024, num_hidden_layers=4,
                     num_attention_heads=6, tie_word_embeddings=True)
ROWS = tiny.prepared(tiny.examples(16, seed=1, longest=120))

def measured(micro, rehearses, steps):
    runtime, folder = tiny.runtime(micro_batch_size=micro, rehearses=rehearses), Path(tempfile.mkdtemp())
    clock, model = Clock("a command", runtime), LlamaForCausalLM(CONFIG)
    with clock.training():
        tiny.fit(model, ROWS, tiny.recipe(num_steps=steps, batch_size=4), folder, runtime=runtime)
    with clock.evaluating():
        pass
    memory = clock.read(device="cpu", num_tokens=1, held=held_bytes(model)).memory
    names = ("rehearsal/rows_per_pass", "rehearsal/peak_bytes")
    rehearsed = [[row[name] for name in names] for row in tiny.log_of(folder, only=names[0])]
    return {"memory": memory.model_dump(), "rehearsed": rehearsed, "rows_per_pass": micro}

tiny.fit(tiny.llama(), tiny.prepared(tiny.examples(8)), tiny.recipe(num_steps=1), Path(tempfile.mkdtemp()))
print(json.dumps([measured(4, True, 2), measured(1, False, 4), measured(4, False, 4)]))
"""


@pytest.mark.slow
def test_memory_of_a_real_small_model_is_forecast_from_a_probe_of_another_micro_batch() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    probe, *trials = json.loads(done.stdout)
    plain = {"num_steps": 2, "num_tokens": 1, "seconds_train": 1.0, "seconds_total": 1.0, "disk_bytes": 1}
    known = Measurement.model_validate_json(json.dumps(plain | {"memory_bytes": None} | probe))
    for trial in trials:
        actual = trial["memory"]
        expected = footprint.of([known], pinned_spec(), trial["rows_per_pass"])
        assert expected is not None
        above = max(actual["train_peak_bytes"], actual["load_peak_bytes"]) - actual["start_bytes"]
        assert expected.above_process == pytest.approx(above, rel=0.15)
        # What a forecast without the optimizer's moments would say is outside of that.
        assert expected.above_process - expected.optimiser != pytest.approx(above, rel=0.15)
