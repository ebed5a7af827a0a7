"""The version of every behaviour that moves a number.

All of these enter a trial's fingerprint: a change of behaviour bumps its version here, gives new trials a new id, and
leaves old records readable under the old one. CHANGELOG.md says by how much each bump moved results.
"""

from __future__ import annotations

RECORD_SCHEMA = 3

BEHAVIOURS: dict[str, int] = {
    "data": 4,  # selection, templates, masks, truncation
    "methods": 1,  # how adapters are built and initialised
    "train": 3,  # loop, losses, schedules
    "evals": 3,  # item sampling, scoring, answer extraction
}

# Only trials on the embedded world depend on these.
POCKET_BEHAVIOURS: dict[str, int] = {
    "pocket_world": 5,
    "pocket_pretrain": 3,
}

# Catalogue suites: which slices, which items, how they are asked and judged: `instruction` by evals/instructions.py,
# `safety` by evals/refusals.py, `code` as evals/return_values.py makes it. Only trials that ask one depend on it.
SUITES: dict[str, int] = {
    "general": 1,
    "skills": 1,
    "instruction": 2,
    "safety": 1,
    "code": 1,
    "code_execution": 1,
    "formats": 1,
    "prose": 1,
}

# Only trials that ask for a probe or panel depend on its version.
PROBES: dict[str, int] = {
    "behaviour": 1,  # EvalTask.panel
    "drift": 1,
    "during": 1,
    "interpolation": 1,
    "layouts": 1,  # EvalTask.layout
    "sampled": 1,  # EvalTask.num_samples
}
