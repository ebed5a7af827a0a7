"""How much memory a large data set takes on its way to packed rows.

    python -m benchmarks.memory --rows 1000000

Writes so many short conversations as JSON lines, prepares them - read, rendered, masked by both engines, packed - in a
process of its own, and prints its peak resident set beside that of a process that only imports what it needs. Exits
with 1 where the peak is above the limit.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_BYTES = 2_000_000_000
FEW = 1000
WORDS = ("the", "a", "town", "potter", "sea", "answer", "question", "born", "in", "of", "Paris", "France", "is", "who")


def main() -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder that holds a fast tokenizer")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.prepare:
        return _prepare(asked.prepare, asked.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        few = Path(folder) / "few.jsonl"
        _write(path, asked.rows)
        _write(few, FEW)
        print(f"{asked.rows} rows, {path.stat().st_size / 1e9:.2f} GB of JSON lines", flush=True)
        base = _measured(few, asked.tokenizer)
        peak = _measured(path, asked.tokenizer)
    print(f"{FEW} rows: {base['peak'] / 1e9:.2f} GB")
    print(f"{asked.rows} rows: {peak['peak'] / 1e9:.2f} GB in {peak['seconds']:.0f} s")
    print(f"{peak['num_tokens']:.0f} tokens in {peak['num_rows']} packed rows, {peak['fill']:.1%} full")
    return int(peak["peak"] > LIMIT_BYTES)


def _write(path: Path, num_rows: int) -> None:
    with path.open("w") as stream:
        for number in range(num_rows):
            words = [WORDS[(number * step + step) % len(WORDS)] for step in range(1, 40 + number % 60)]
            messages = [
                {"role": "user", "content": f"Question {number}: {' '.join(words[:20])}?"},
                {"role": "assistant", "content": f"{' '.join(words[20:])} {number}."},
            ]
            stream.write(json.dumps({"id": str(number), "messages": messages}) + "\n")


def _measured(path: Path, tokenizer: Path) -> dict[str, float]:
    words = ["-m", "benchmarks.memory", "--prepare", str(path), "--tokenizer", str(tokenizer)]
    done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _prepare(path: Path, folder: Path) -> int:
    from transformers import AutoTokenizer

    from experiments.pocket import SPEC
    from harness import data

    started = time.perf_counter()
    changes = {"num_examples": None, "num_validation": 100, "template": "chatml", "max_length": 2048}
    packed = {"packing": "isolated", "too_long": "truncate_right", "replay_source": None}
    spec = SPEC.data.model_copy(update={"source": data.describe_file(path), **changes, **packed})
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = data.prepare(spec, data.chat_format(tokenizer, spec), seed=0)
    found = {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": time.perf_counter() - started,
        "num_tokens": (rows.summary.mean_tokens or 0.0) * rows.num_examples,
        "num_rows": len(rows.train),
        "fill": rows.summary.pack_fill or 0.0,
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
