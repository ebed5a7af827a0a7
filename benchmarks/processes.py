"""What each process holds that trains one model: alone, two that hold all of it, two that hold half of each weight.

    python -m benchmarks.processes

A Llama of 50 M random weights, all of them trained in float32, for three steps of 4 rows of 32 tokens on the CPU. The
figure is the high-water mark of each process's resident memory while it trains, above what it held before the model.
"""

from __future__ import annotations

import os
import tempfile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.engine import heap
from harness.engine.together import Member, _free_port
from harness.records.provenance import begin_peak_memory, peak_memory_bytes
from harness.spec import Runtime

SIZE: dict[str, Any] = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 11}
NUM_TOKENS = 32
RUNTIME = Runtime(num_threads=1, micro_batch_size=2, eval_batch_size=2, device="cpu")
LAYOUTS = {
    "one process": RUNTIME,
    "two, all of it each": RUNTIME.replace({"num_processes": 2}),
    "two, half of each weight (fsdp)": RUNTIME.replace({"num_processes": 2, "sharding": "fsdp"}),
}


def main() -> int:
    """Run the benchmark and return the exit code."""
    for name, runtime in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            shown = ", ".join(f"{size / 1e6:.0f} MB" for size in _measured(runtime, Path(folder)))
        print(f"{name}: {shown}", flush=True)
    return 0


def _measured(runtime: Runtime, folder: Path) -> list[int]:
    port, count = _free_port(), runtime.num_processes
    members = [Member(rank, count, port) for rank in range(count)]
    started = [get_context("spawn").Process(target=_train, args=(one, runtime, folder)) for one in members]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [int((folder / str(member.rank)).read_text()) for member in members]


def _train(member: Member, runtime: Runtime, folder: Path) -> None:
    os.environ.update(member.variables())
    heap.give_back_freed()  # as the engine does for shares
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness.train.processes import ALONE, Together
    from harness.train.sharding import Sharded
    from tests.train import tiny

    torch.set_num_threads(1)
    group: Any = ALONE if member.count == 1 else (Sharded if runtime.sharding == "fsdp" else Together)()
    tiny.fit(tiny.llama(), tiny.prepared(tiny.examples(8)), tiny.recipe(num_steps=1), folder / "warm")
    begin_peak_memory()
    before = peak_memory_bytes() or 0
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, num_attention_heads=8, **SIZE))
    rows = tiny.prepared(tiny.examples(16, longest=NUM_TOKENS))
    spec = tiny.recipe(num_steps=3, batch_size=4, learning_rate=1e-4)
    tiny.fit(model, rows, spec, folder / "run", runtime=runtime, processes=group)
    (folder / str(member.rank)).write_text(str((peak_memory_bytes() or 0) - before))


if __name__ == "__main__":
    raise SystemExit(main())
