"""What a trial, a sweep, a study and an experiment are: frozen values, free of torch."""

from __future__ import annotations

from harness.spec.fetch import FetchItem, HubItem, Package, PackageArtefact, pinned_revision, read_lock
from harness.spec.model import Elsewhere, Model, Scalar, explain, parse_json
from harness.spec.sweep import (
    Arm,
    Axis,
    Constraint,
    Dimension,
    Experiment,
    MethodReference,
    Objective,
    Runtime,
    Selection,
    Study,
    Sweep,
)
from harness.spec.trial import (
    ArtefactBase,
    BaseRef,
    DataSource,
    DataSpec,
    DType,
    EvalSpec,
    EvalTask,
    FileData,
    FileItems,
    FolderBase,
    FullConfig,
    HubBase,
    HubData,
    ItemSource,
    LoraConfig,
    Measure,
    MethodConfig,
    PocketBase,
    PocketData,
    PocketItems,
    QLoraConfig,
    Quantisation,
    TrainSpec,
    TrialBase,
    TrialSpec,
)
from harness.spec.world import PocketModelSpec, WorldSpec

__all__ = [name for name in dir() if name[0].isupper()] + ["explain", "parse_json", "pinned_revision", "read_lock"]
