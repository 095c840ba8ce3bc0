"""Curves for the page of a run: stage 1's labels against the true ones, which `--analysis` logs."""

from __future__ import annotations

from utils.report.curves import Chart, chart
from utils.report.run import Run

LABELS = {"soft label": "soft_label", "rectified label": "rectified_label", "assignment": "assignment"}
_PAIRS = ("assigned_to_prior", "assigned_to_truth", "prior_to_truth")


def truth_curves(run: Run) -> list[Chart]:
    """Parts of the pixels that are right, and distances of class shares."""
    distances = {pair.replace("_", " "): run.series(f"analysis/{pair}") for pair in _PAIRS}
    charts = [
        _right(run, "right labels", "accuracy"),
        _right(run, "right labels, mean over classes", "mean_accuracy"),
        chart("class shares of sampled pixels", distances, within=[0.0]),
    ]
    return [drawn for drawn in charts if drawn]


def truth_class_curves(run: Run) -> list[Chart]:
    """Parts of the pixels that are right, a chart for each class that occurs."""
    charts = [_right(run, name, "accuracy", f"/{name}") for name, _ in run.classes]
    return [drawn for drawn in charts if drawn]


def _right(run: Run, title: str, figure: str, of: str = "") -> Chart | None:
    """Draw a figure of each of LABELS, of all classes or of one."""
    series = {name: run.series(f"analysis/{figure}/{label}{of}") for name, label in LABELS.items()}
    return chart(title, series, within=[0.0, 1.0])
