"""Labels, groups and folds from the columns of a table of recordings."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from sklearn.preprocessing import MultiLabelBinarizer

from ..audio.errors import source_name
from .groups import read_groups
from .metadata import DataError
from .where import column_as_text


@dataclass(frozen=True)
class LabelledClips:
    """
    Args:
        names: Of the classes. labels: Class numbers (clips,), or bool (clips, classes) where a clip has several.
        groups, group_names: Speaker or source of each clip (clips,), as a number and in words, of [`read_groups`].
        folds: Official fold of each clip (clips,) as text, where there is one.
    """

    names: list[str]
    labels: np.ndarray
    groups: np.ndarray | None = None
    group_names: list[str] | None = None
    folds: np.ndarray | None = None


def read_classes(
    recordings: Dataset, label_column: str, label_separator: str | None = None
) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and the labels: `names` and `labels` of [`read_labels`], with its errors."""
    texts = column_as_text(recordings, label_column)
    if label_separator:
        sets = [{part.strip() for part in text.split(label_separator)} - {""} for text in texts]
        binarizer = MultiLabelBinarizer()
        labels, names = binarizer.fit_transform(sets).astype(bool), list(binarizer.classes_)
    else:
        if "" in texts:
            name = source_name(recordings[texts.index("")]["audio"])
            raise DataError(f"{name} has no {label_column}: name the rows that have one with --where.")
        unique, labels = np.unique(texts, return_inverse=True)
        names = unique.tolist()
    if len(names) < 2:
        raise DataError(f"{label_column} holds {len(names)} classes ({', '.join(names)}): at least two are needed.")
    return names, labels


def read_labels(
    recordings: Dataset,
    label_column: str,
    label_separator: str | None = None,
    group_column: str | None = None,
    fold_column: str | None = None,
) -> LabelledClips:
    """Labels, groups and folds from columns of [`load_recordings`].

    Args:
        label_separator: What stands between the labels of a clip that has several, such as `;` in `dog;rain`. Then an
            empty value says that a clip has none of the classes.

    Raises:
        DataError: no such column, a clip without a label, or fewer than two classes.
    """
    names, labels = read_classes(recordings, label_column, label_separator)
    groups = read_groups(recordings, group_column)
    group_names = None
    if groups is not None:
        known = column_as_text(recordings, group_column) if group_column else [""] * len(groups)
        group_names = [text or source_name(value) for text, value in zip(known, recordings["audio"], strict=True)]
    folds = np.array(column_as_text(recordings, fold_column)) if fold_column else None
    return LabelledClips(names, labels, groups, group_names, folds)


def draw_labelled(labels: np.ndarray, train_rows: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Rows (classes * k,) of `k` random training clips of every class in `labels`, in order of the classes.

    The same for every model. The clips drawn for a smaller `k` are among those for a larger one.

    Args:
        labels: Class numbers (clips,). train_rows: Rows to draw from.

    Raises:
        DataError: a class has fewer than `k` clips among the training rows.
    """
    if k < 1:
        raise DataError(f"k={k}: at least one labelled clip per class is needed.")
    train_rows = np.sort(train_rows)
    rng = np.random.default_rng([seed, *train_rows])  # with the rows, so that folds do not draw alike
    drawn = []
    for label in np.unique(labels):
        rows = train_rows[labels[train_rows] == label]
        if len(rows) < k:
            raise DataError(f"Class {label} has {len(rows)} clips among the training rows, k={k} are needed: lower k.")
        drawn.append(rng.permutation(rows)[:k])
    return np.concatenate(drawn)


__all__ = ["LabelledClips", "read_classes", "read_labels", "draw_labelled"]
