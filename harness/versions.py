"""The version of every behaviour that moves a number.

All of these enter a trial's fingerprint: a change of behaviour bumps its version here, gives new trials a new id, and
leaves old records readable under the old one. CHANGELOG.md says by how much each bump moved results.
"""

from __future__ import annotations

RECORD_SCHEMA = 1

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
