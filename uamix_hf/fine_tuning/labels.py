"""Training targets from a column: one class, several classes or a number per clip; checked before training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from ..audio.errors import source_name
from ..data import DataError, PreparedData, column_as_text, read_classes, select_rows
from ..data.labels import draw_labelled
from ..metrics.checks import measurable_classes

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


@dataclass
class LabelArguments:
    """What the label column holds, and how many labels are used.

    Args:
        problem_type: `"single_label_classification"`, `"multi_label_classification"` or `"regression"`; by default the
            second where there is a `label_separator`, else the first.
        label_separator: What separates the labels of a clip that has several.
        k_shot: Labelled clips per class to train on, chosen at random; all by default.

    Raises:
        ValueError: values that contradict each other or are out of range.
    """

    problem_type: ProblemType | None = field(
        default=None,
        metadata={
            "help": "single_label_classification, multi_label_classification or regression; by default the second "
            "where there is a label_separator, and else the first."
        },
    )
    label_separator: str | None = field(
        default=None, metadata={"help": "Separator of the labels of a clip that has several: ';' in 'dog;rain'."}
    )
    k_shot: int | None = field(
        default=None,
        metadata={"help": "Train on this many labelled clips per class, chosen by the seed; on all if unset."},
    )

    def __post_init__(self) -> None:
        if self.problem_type is None:
            self.problem_type = "multi_label_classification" if self.label_separator else "single_label_classification"
        if (self.problem_type == "multi_label_classification") != bool(self.label_separator):
            raise ValueError(
                f"problem_type={self.problem_type} with label_separator={self.label_separator!r}: clips of several "
                "classes need a separator, others have none."
            )
        if self.k_shot is not None and self.k_shot < 1:
            raise ValueError(f"k_shot={self.k_shot}: at least one clip per class is needed.")
        if self.k_shot is not None and self.problem_type != "single_label_classification":
            raise ValueError(f"k_shot={self.k_shot} counts clips per class, which {self.problem_type} does not have.")


@dataclass(frozen=True)
class Targets:
    """Training targets of all recordings.

    Args:
        values: Class numbers (clips,) int64, 0/1 (clips, classes) float32, or numbers (clips,) float32.
        names: Class names, or the name of the column of numbers.
        problem_type: As in the model's configuration.
    """

    values: np.ndarray
    names: list[str]
    problem_type: ProblemType

    def model_settings(self) -> dict[str, Any]:
        """Fields of the model's configuration: `id2label`, `label2id` and `problem_type`."""
        names = dict(enumerate(self.names))
        return {
            "id2label": names,
            "label2id": {name: number for number, name in names.items()},
            "problem_type": self.problem_type,
        }


def read_targets(recordings: Dataset, column: str | None, args: LabelArguments) -> Targets:
    """Targets from the label column.

    Args:
        recordings: Of [`load_recordings`].
        column: Name of the label column.
        args: What the column holds.

    Raises:
        DataError: no such column, a clip without a label, fewer than two classes, or a value that is not a finite
            number.
    """
    if column is None:
        raise DataError(f"Give --label_column, the column to learn. There are {', '.join(recordings.column_names)}.")
    assert args.problem_type is not None
    if args.problem_type == "regression":
        return Targets(read_numbers(recordings, column), [column], args.problem_type)
    names, labels = read_classes(recordings, column, args.label_separator)
    kind = np.float32 if args.label_separator else np.int64
    return Targets(labels.astype(kind), names, args.problem_type)


def read_numbers(recordings: Dataset, column: str) -> np.ndarray:
    """Numbers of a column (clips,) float32.

    Raises:
        DataError: no such column, or a value that is not a finite number.
    """
    numbers = np.empty(len(recordings), np.float32)
    for row, text in enumerate(column_as_text(recordings, column)):
        try:
            numbers[row] = float(text)
        except ValueError:
            numbers[row] = np.nan
        if not np.isfinite(numbers[row]):
            raise DataError(
                f"{source_name(recordings[row]['audio'])} has {column}={text!r}, which is not a finite number: select "
                "the rows that have one with --where."
            )
    return numbers


def with_labels(dataset: Dataset, values: np.ndarray) -> Dataset:
    """Log-mels with a column `labels` of these values, which replaces an existing one."""
    table = dataset.select_columns(["features", "length", "sample_id"])
    return table.add_column("labels", list(values) if values.ndim > 1 else values)


def labelled_rows(dataset: Dataset, rows: np.ndarray, labels: np.ndarray, number_of_classes: int) -> Dataset:
    """Chosen rows with a column `labels` of class numbers.

    Args:
        dataset: Log-mels.
        rows: Rows to choose (n,) int.
        labels: Class numbers (clips,) int, one for each row of `dataset`; those of other rows are not read.
        number_of_classes: Labels must be below it.

    Raises:
        ValueError: no rows, not one label per clip, or a label outside 0 ... number_of_classes - 1.
    """
    rows, labels = np.asarray(rows), np.asarray(labels)
    if labels.shape != (len(dataset),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels is {labels.dtype} {labels.shape}, expected one class number for each of the {len(dataset)} clips."
        )
    if len(rows) == 0:
        raise ValueError("There are no rows to train on.")
    wrong = rows[(labels[rows] < 0) | (labels[rows] >= number_of_classes)]
    if len(wrong):
        raise ValueError(
            f"Row {wrong[0]} has label {labels[wrong[0]]}, there are classes 0 ... {number_of_classes - 1}."
        )
    # Labelled first: a column added to selected rows would have them copied on disk.
    return with_labels(dataset, labels.astype(np.int64)).select(rows)


def check_training_labels(train: np.ndarray, others: Mapping[str, np.ndarray], targets: Targets) -> None:
    """Check that the training rows can be learnt and the held-out rows measured.

    Args:
        train: Targets of the training rows.
        others: Targets of held-out rows, by their name.
        targets: Class names and problem type.

    Raises:
        DataError: a held-out class without training rows, held-out rows that all have the same classes, training rows
            of a single class, or numbers that are all equal.
    """
    if targets.problem_type == "regression":
        if np.ptp(train) == 0:
            raise DataError(f"All {len(train)} training rows have {targets.names[0]}={train[0]:g}: nothing to learn.")
        return
    known = classes_in(train, targets)
    for part, values in others.items():
        if not classes_in(values, targets):
            raise DataError(f"None of the {len(values)} {part} rows has a class, so nothing can be measured on them.")
        unknown = [targets.names[number] for number in sorted(classes_in(values, targets) - known)]
        if unknown:
            raise DataError(
                f"The {part} rows have clips of {', '.join(unknown)}, of which there is no training row: hold out "
                "other rows, or leave the class out with --where."
            )
    if len(known) < 2:
        names = ", ".join(targets.names[number] for number in known)
        raise DataError(f"The training rows have {len(known)} classes ({names}): at least two are needed.")
    for part, values in others.items():
        single = targets.problem_type == "single_label_classification"
        if not (len(classes_in(values, targets)) > 1 if single else measurable_classes(values != 0).any()):
            names = ", ".join(targets.names[number] for number in sorted(classes_in(values, targets)))
            raise DataError(
                f"All {len(values)} {part} rows are of the same class ({names}), so a constant model "
                "would score perfectly: hold out other rows."
            )


def classes_in(values: np.ndarray, targets: Targets) -> set[int]:
    """Class numbers that occur."""
    single = targets.problem_type == "single_label_classification"
    return set(np.unique(values).tolist() if single else np.flatnonzero(values.any(axis=0)).tolist())


def draw_shots(train: PreparedData, targets: Targets, k: int, seed: int) -> PreparedData:
    """Choose `k` clips of each class at random, those of [`draw_labelled`].

    Args:
        train: Training rows, with `labels`.
        targets: Class names.
        k: Clips per class.
        seed: Random seed.

    Raises:
        DataError: a class has fewer clips.
    """
    labels = train.dataset["labels"][:].numpy()
    for number, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count < k:
            raise DataError(
                f"Class {targets.names[number]!r} has {count} training rows, k_shot={k} needs {k}: lower k_shot, or "
                "leave the class out with --where."
            )
    return select_rows(train, np.sort(draw_labelled(labels, np.arange(len(labels)), k, seed)))


__all__ = [
    "LabelArguments",
    "Targets",
    "check_training_labels",
    "draw_shots",
    "labelled_rows",
    "read_targets",
    "with_labels",
]
