"""Results for readers: a table, pictures, and a page that holds both in one file; needs matplotlib."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader

from ..metrics.plots import plot_confusion, shorten
from .plots import LabelCurves, plot_class_gains, plot_embeddings, plot_label_curves

TEMPLATES = Path(__file__).parent / "templates"
# Of several measurements the page shows one class by class: that with few labels, which is what tuning is for.
PREFERRED = ("few_shot", "low_shot", "fine_tune", "linear", "knn")
CONFUSIONS = 10


@dataclass(frozen=True)
class Table:
    """Cells as text; a row of a single cell is a heading of those below it."""

    titles: list[str]
    rows: list[list[str]]

    def __str__(self) -> str:
        """Plain text with aligned columns."""
        full = [self.titles, *(row for row in self.rows if len(row) > 1)]
        widths = [max(map(len, column)) for column in zip(*full, strict=True)]
        title, *lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
            for row in (self.titles, *self.rows)
        )
        return "\n".join([title, "-" * (sum(widths) + 2 * len(widths) - 2), *lines])


@dataclass(frozen=True)
class Picture:
    path: Path
    title: str
    caption: str

    @property
    def data_uri(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.path.read_bytes()).decode()}"


def kind_name(entry: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Words for the protocol and the classifier of an entry of `scores` or `comparisons`."""
    arguments, classes = results["arguments"], len(results["data"]["classes"])
    name = {
        "few_shot": f"few-shot, {arguments.get('n_way')} classes",
        "low_shot": f"low-shot, all {classes} classes",
        "fine_tune": f"fine-tuned, all {classes} classes",
        "knn": f"{entry.get('neighbours') or arguments.get('neighbours')} nearest neighbours",
        "linear": "linear probe",
    }[entry["protocol"]]
    return f"{name}, {entry['classifier'].replace('_', ' ')}" if entry["classifier"] else name


def label_count(entry: Mapping[str, Any]) -> str:
    return f"{entry['k']}-shot" if entry["protocol"] == "few_shot" else f"{entry['k']} per class"


def measurement_name(entry: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    return kind_name(entry, results) + (f", {label_count(entry)}" if entry["k"] else "")


def percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.1f}"


def score_table(results: Mapping[str, Any]) -> Table:
    """One row a measurement, one column a model, and one for each difference from the first; in %."""
    models, count = results["models"], len(results["models"][0]["scores"])
    others = [model["name"] for model in models[1:]]
    gains = ["difference [95 %]"] if len(others) == 1 else [f"{name}, difference [95 %]" for name in others]
    rows: list[list[str]] = []
    heading = ""
    for number, entry in enumerate(models[0]["scores"]):
        kind = kind_name(entry, results)
        above, name = (kind, label_count(entry)) if entry["k"] else ("all labelled clips", kind)
        if above != heading:
            rows.append([above])
        heading, cells = above, [name]
        for score in (model["scores"][number] for model in models):
            half = score["interval"]
            cells.append(percent(score["mean"]) + ("" if half is None else f" ± {percent(half)}"))
        for one in results["comparisons"][number::count]:
            low, high = percent(one["low"], "+"), percent(one["high"], "+")
            cells.append(f"{percent(one['difference'], '+')} [{low}, {high}]")
        rows.append(cells)
    return Table([metric_name(results), *(model["name"] for model in models), *gains], rows)


def metric_name(results: Mapping[str, Any]) -> str:
    return "average precision in %" if results["data"]["multi_label"] else "accuracy in %"


def preferred_measurement(results: Mapping[str, Any]) -> int:
    """Position, among the scores of every model, of the one that is shown class by class."""
    scores = results["models"][0]["scores"]
    return min(range(len(scores)), key=lambda n: (PREFERRED.index(scores[n]["protocol"]), -(scores[n]["k"] or 0)))


def class_table(results: Mapping[str, Any]) -> Table:
    """The preferred measurement class by class, for every model, and the last minus the first."""
    models = results["models"]
    scores = [model["scores"][preferred_measurement(results)]["by_class"] for model in models]
    titles = ["class", *(model["name"] for model in models)]
    rows = [[name, *(percent(score[name]) for score in scores)] for name in scores[0]]
    if len(models) > 1:
        titles.append("difference")
        rows = [[*row, percent(scores[-1][row[0]] - scores[0][row[0]], "+")] for row in rows]
    return Table(titles, rows)


def confusion_matrices(results: Mapping[str, Any]) -> tuple[str, dict[str, np.ndarray]]:
    """Protocol, and numbers of clips (classes, classes) of the first and the last model by name; none where none is."""
    models = results["models"]
    protocol = next((name for name in ("linear", "knn") if name in models[0]["confusion"]), "")
    if not protocol:
        return "", {}
    return protocol, {model["name"]: np.array(model["confusion"][protocol]) for model in (models[0], models[-1])}


def confusion_table(results: Mapping[str, Any]) -> Table:
    """The pairs of classes that are confused most often, over the first and the last model."""
    _, matrices = confusion_matrices(results)
    names = results["data"]["classes"]
    mistakes = np.sum(list(matrices.values()), axis=0)
    np.fill_diagonal(mistakes, 0)
    pairs = sorted(np.argwhere(mistakes).tolist(), key=lambda pair: -mistakes[*pair])[:CONFUSIONS]
    rows = [
        [names[row], names[column], *(f"{matrix[row, column]} of {matrix[row].sum()}" for matrix in matrices.values())]
        for row, column in pairs
    ]
    return Table(["class", "taken for", *matrices], rows)


def label_curves(results: Mapping[str, Any]) -> list[LabelCurves]:
    """For each protocol and classifier that was measured with several numbers of labels."""
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


def draw_pictures(
    folder: str | Path, results: Mapping[str, Any], vectors: Mapping[str, np.ndarray], labels: np.ndarray
) -> list[Picture]:
    """PNG files of what there is to show, in the order in which to read them.

    Args:
        results: Of [`result_tree`]. vectors: Embeddings (clips, width) by the name of the model.
        labels: Class numbers (clips,); of bool (clips, classes) no map is drawn.
    """
    folder, models, pictures = Path(folder), results["models"], []
    first, last = models[0]["name"], models[-1]["name"]
    if panels := label_curves(results):
        path = folder / "accuracy_by_labels.png"
        plot_label_curves(path, panels)
        caption = "Bands are 95 % intervals over draws from these clips; dots mark what was measured."
        pictures.append(Picture(path, "Accuracy against labels", caption))
    if len(models) > 1:
        entry = results["comparisons"][-len(models[0]["scores"]) :][preferred_measurement(results)]
        path, name = folder / "class_gains.png", measurement_name(entry, results)
        plot_class_gains(path, entry["by_class"], f"{shorten(last)} minus {shorten(first)}\n(percentage points)")
        caption = f"Last model minus first, {name}. A class rests on few clips: a short bar says little."
        pictures.append(Picture(path, "Gain of each class", caption))
    protocol, matrices = confusion_matrices(results)
    if matrices:
        path, name = folder / "confusion.png", {"linear": "linear probe", "knn": "nearest neighbours"}[protocol]
        plot_confusion(
            path, {f"{title}, {name}": matrix for title, matrix in matrices.items()}, results["data"]["classes"]
        )
        caption = "Each row shares out the clips of one class; the diagonal was right."
        pictures.append(Picture(path, "What is taken for what", caption))
    if labels.ndim == 1:
        path = folder / "embeddings.png"
        maps = {name: vectors[name] for name in (first, last)}
        plot_embeddings(path, maps, labels, results["data"]["classes"], results["arguments"].get("seed", 0))
        caption = "One dot a clip (t-SNE by cosine). Clips that lie close are alike; long distances mean little."
        pictures.append(Picture(path, "Map of the embeddings", caption))
    return pictures


def write_report(
    path: str | Path, results: Mapping[str, Any], pictures: Sequence[Picture] = (), command: str = ""
) -> None:
    """One HTML file that needs neither network nor scripts.

    Args:
        results: Of [`result_tree`]. command: What made them.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    scores = results["models"][0]["scores"]
    page = environment.get_template("report.html").render(
        results=results,
        scores=score_table(results),
        classes=class_table(results),
        shown=measurement_name(scores[preferred_measurement(results)], results),
        confusions=confusion_table(results) if confusion_matrices(results)[1] else None,
        draws={entry["protocol"]: entry["draws"] for entry in scores},
        pictures=pictures,
        command=command,
    )
    Path(path).write_text(page, encoding="utf-8")


__all__ = ["Picture", "Table", "class_table", "confusion_table", "draw_pictures", "score_table", "write_report"]
