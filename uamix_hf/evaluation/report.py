"""Results for readers: plots, and one HTML page with all tables and plots; needs matplotlib."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader

from ..metrics.plots import plot_confusion, shorten
from .plots import LabelCurves, plot_class_gains, plot_embeddings, plot_label_curves
from .tables import (
    class_table,
    confusion_matrices,
    confusion_table,
    kind_name,
    measurement_name,
    preferred_measurement,
    score_table,
)

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Plot:
    """A plot on disk.

    Args:
        path: PNG file.
        title: Title in the report.
        caption: Caption in the report.
    """

    path: Path
    title: str
    caption: str

    @property
    def data_uri(self) -> str:
        """The file's content as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.path.read_bytes()).decode()}"


def label_curves(results: Mapping[str, Any]) -> list[LabelCurves]:
    """Accuracy against labels, of each protocol and classifier that was run with several numbers of labels."""
    curves: dict[str, dict[str, list[tuple[int, float, float | None]]]] = {}
    chance = {}
    for model in results["models"]:
        for entry in (entry for entry in model["scores"] if entry["k"]):
            kind = kind_name(entry, results)
            point = (entry["k"], entry["mean"], entry["interval"])
            curves.setdefault(kind, {}).setdefault(model["name"], []).append(point)
            few = entry["protocol"] == "few_shot"
            chance[kind] = 1 / (results["arguments"]["n_way"] if few else len(results["data"]["classes"]))
    first = results["models"][0]["name"]
    return [LabelCurves(kind, chance[kind], lines) for kind, lines in curves.items() if len(lines[first]) > 1]


def write_plots(
    folder: str | Path, results: Mapping[str, Any], embeddings: Mapping[str, np.ndarray], labels: np.ndarray
) -> list[Plot]:
    """Write plots of the results as PNG files.

    Accuracy against labels, gain of each class, confusion matrices and maps of the embeddings, where there are data for
    them.

    Args:
        folder: Where to write them.
        results: Of [`result_tree`].
        embeddings: float (clips, embedding_size), by the name of the encoder.
        labels: Class numbers (clips,); for bool (clips, classes) no map is drawn.

    Returns:
        The plots, in the order of the report.
    """
    folder, models, plots = Path(folder), results["models"], []
    first, last = models[0]["name"], models[-1]["name"]
    if panels := label_curves(results):
        path = folder / "accuracy_by_labels.png"
        plot_label_curves(path, panels)
        caption = "Bands are 95 % intervals over trials on these clips; markers are the measurements."
        plots.append(Plot(path, "Accuracy against labels", caption))
    if len(models) > 1:
        entry = results["comparisons"][-len(models[0]["scores"]) :][preferred_measurement(results)]
        path, name = folder / "class_gains.png", measurement_name(entry, results)
        plot_class_gains(path, entry["by_class"], f"{shorten(last)} minus {shorten(first)}\n(percentage points)")
        caption = f"Last encoder minus first, {name}. Classes have few clips: small differences mean little."
        plots.append(Plot(path, "Gain by class", caption))
    protocol, matrices = confusion_matrices(results)
    if matrices:
        path, name = folder / "confusion.png", {"linear": "linear probe", "knn": "nearest neighbours"}[protocol]
        plot_confusion(
            path, {f"{title}, {name}": matrix for title, matrix in matrices.items()}, results["data"]["classes"]
        )
        caption = "Each row is a true class, as fractions of its clips; the diagonal is correct."
        plots.append(Plot(path, "Confusion matrix", caption))
    if labels.ndim == 1:
        path = folder / "embeddings.png"
        maps = {name: embeddings[name] for name in (first, last)}
        plot_embeddings(path, maps, labels, results["data"]["classes"], results["arguments"].get("seed", 0))
        caption = "One marker per clip (t-SNE by cosine distance). Near clips are similar; long distances mean little."
        plots.append(Plot(path, "Map of the embeddings", caption))
    return plots


def write_report(path: str | Path, results: Mapping[str, Any], plots: Sequence[Plot] = (), command: str = "") -> None:
    """Write one HTML file that needs neither network nor scripts.

    Args:
        path: File to write.
        results: Of [`result_tree`].
        plots: Of [`write_plots`].
        command: Command line that made the results.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    scores = results["models"][0]["scores"]
    page = environment.get_template("report.html").render(
        results=results,
        scores=score_table(results),
        classes=class_table(results),
        shown=measurement_name(scores[preferred_measurement(results)], results),
        confusions=confusion_table(results) if confusion_matrices(results)[1] else None,
        trials={entry["protocol"]: entry["trials"] for entry in scores},
        plots=plots,
        command=command,
    )
    Path(path).write_text(page, encoding="utf-8")


__all__ = ["Plot", "write_plots", "write_report"]
