"""Results as tables of text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Class by class, one measurement is shown: the first of these, since tuning is for tasks with few labels.
PREFERRED = ("few_shot", "low_shot", "fine_tune", "linear", "knn")
CONFUSIONS = 10


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        titles: Title of each column.
        rows: Cells of each row; a row of a single cell is a heading of those below it.
    """

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


def kind_name(entry: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Protocol and classifier of an entry of `scores` or `comparisons`, in words."""
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
    """Number of labelled clips of an entry, in words."""
    return f"{entry['k']}-shot" if entry["protocol"] == "few_shot" else f"{entry['k']} per class"


def measurement_name(entry: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Protocol, classifier and number of labelled clips of an entry, in words."""
    return kind_name(entry, results) + (f", {label_count(entry)}" if entry["k"] else "")


def percent(fraction: float, sign: str = "") -> str:
    """A fraction in percent, without the sign of percent."""
    return f"{100 * fraction:{sign}.1f}"


def score_table(results: Mapping[str, Any]) -> Table:
    """Scores in %: one row per measurement, one column per encoder and per difference from the first one.

    Args:
        results: Of [`evaluate_encoders`].
    """
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
    """Metric of the scores, in words."""
    return "average precision in %" if results["data"]["multi_label"] else "accuracy in %"


def preferred_measurement(results: Mapping[str, Any]) -> int:
    """Position, among the scores of every encoder, of the one that is shown by class: the one of fewest labels."""
    scores = results["models"][0]["scores"]
    return min(range(len(scores)), key=lambda n: (PREFERRED.index(scores[n]["protocol"]), -(scores[n]["k"] or 0)))


def class_table(results: Mapping[str, Any]) -> Table:
    """Scores by class in %, of the preferred measurement: one column per encoder, and the last minus the first.

    Args:
        results: Of [`evaluate_encoders`].
    """
    models = results["models"]
    scores = [model["scores"][preferred_measurement(results)]["by_class"] for model in models]
    titles = ["class", *(model["name"] for model in models)]
    rows = [[name, *(percent(score[name]) for score in scores)] for name in scores[0]]
    if len(models) > 1:
        titles.append("difference")
        rows = [[*row, percent(scores[-1][row[0]] - scores[0][row[0]], "+")] for row in rows]
    return Table(titles, rows)


def confusion_matrices(results: Mapping[str, Any]) -> tuple[str, dict[str, np.ndarray]]:
    """Protocol, and confusion matrices of the first and last encoder by name; "" and {} where no protocol has them.

    They count clips (true classes, predicted classes).
    """
    models = results["models"]
    protocol = next((name for name in ("linear", "knn") if name in models[0]["confusion"]), "")
    if not protocol:
        return "", {}
    return protocol, {model["name"]: np.array(model["confusion"][protocol]) for model in (models[0], models[-1])}


def confusion_table(results: Mapping[str, Any]) -> Table:
    """Pairs of classes that the first and the last encoder confuse most often.

    Args:
        results: Of [`evaluate_encoders`].
    """
    _, matrices = confusion_matrices(results)
    names = results["data"]["classes"]
    mistakes = np.sum(list(matrices.values()), axis=0)
    np.fill_diagonal(mistakes, 0)
    pairs = sorted(np.argwhere(mistakes).tolist(), key=lambda pair: -mistakes[*pair])[:CONFUSIONS]
    rows = [
        [names[row], names[column], *(f"{matrix[row, column]} of {matrix[row].sum()}" for matrix in matrices.values())]
        for row, column in pairs
    ]
    return Table(["class", "predicted as", *matrices], rows)


__all__ = ["Table", "class_table", "confusion_table", "score_table"]
