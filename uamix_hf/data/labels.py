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
    """Labels, groups and folds of clips.

    Args:
        names: Class names.
        labels: Class numbers (clips,), or bool (clips, classes) for several labels per clip.
        groups: Group number of each clip (clips,), from [`read_groups`], or None.
        group_names: Name of each clip's group (clips,), or None.
        folds: Official fold of each clip (clips,) as text, or None.
    """

    names: list[str]
    labels: np.ndarray
    groups: np.ndarray | None = None
    group_names: list[str] | None = None
    folds: np.ndarray | None = None


def read_classes(
    recordings: Dataset, label_column: str, label_separator: str | None = None
) -> tuple[list[str], np.ndarray]:
    """Reads class names and labels.

    Args:
        recordings: Table of [`load_recordings`].
        label_column: Column of the labels.
        label_separator: As in [`read_labels`].

    Returns:
        `names` and `labels` of [`LabelledClips`].

    Raises:
        DataError: No such column, a clip without a label, or fewer than two classes.
    """
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
    """Reads labels, groups and folds from columns of recordings.

    Args:
        recordings: Table of [`load_recordings`].
        label_column: Column of the labels.
        label_separator: Separator of several labels per clip, such as `;` in `dog;rain`. A clip with an empty value
            then has none of the classes.
        group_column: Column of the speaker or source.
        fold_column: Column of the official folds.

    Raises:
        DataError: No such column, a clip without a label, or fewer than two classes.
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
    """Draws `k` training clips of every class.

    The draw is the same for every model, and that for a smaller `k` is a subset of that for a larger one.

    Args:
        labels: Class numbers (clips,).
        train_rows: Rows to draw from.
        k: Clips per class.
        seed: Seed of the draw.

    Returns:
        Rows (classes * k,) in order of the classes.

    Raises:
        DataError: A class has fewer than `k` clips among the training rows.
    """
    if k < 1:
        raise DataError(f"k={k}: at least one labelled clip per class is needed.")
    train_rows = np.sort(train_rows)
    rng = np.random.default_rng([seed, *train_rows])  # seeded with the rows, so that folds draw differently
    drawn = []
    for label in np.unique(labels):
        rows = train_rows[labels[train_rows] == label]
        if len(rows) < k:
            raise DataError(f"Class {label} has {len(rows)} clips among the training rows, k={k} are needed: lower k.")
        drawn.append(rng.permutation(rows)[:k])
    return np.concatenate(drawn)


__all__ = ["LabelledClips", "read_classes", "read_labels", "draw_labelled"]
