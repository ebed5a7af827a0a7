"""Reports without their figures' drawing, which takes most of the time: for tests of everything else.

Invariant: every file of a report is there; a PNG has one pixel and a PDF says only that it is one.
"""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from analysis import figure_kinds, files, write_report
from analysis.points import FigureData
from analysis.report import Report

ONE_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


def write_undrawn(root: Path, folder: str) -> Report:
    """Write a sweep's report with figures of one pixel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure_kinds, "write_figure", _write_pixel)
        return write_report(root, folder)


def _write_pixel(data: FigureData, draw: object, folder: Path, venue: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"pdf": b"%PDF", "png": ONE_PIXEL, "csv": files.csv(data.points), "txt": data.caption.encode()}
    paths = [folder / f"{data.name}.{ending}" for ending in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    return paths
