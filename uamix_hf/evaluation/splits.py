"""Training and test rows that share no speaker or source."""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from ..metrics.checks import EvaluationError, is_multi_label, measurable_classes

Split = tuple[np.ndarray, np.ndarray]


class SplitError(EvaluationError):
    """Splits that would mislead, or for which the data do not suffice; the message says what to change."""


def check_split(
    groups: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray, names: Sequence[str] | None = None
) -> None:
    """Check that training and test rows share no group.

    Args:
        groups: Speaker or source of each clip (clips,).
        train_rows: Rows of the training clips.
        test_rows: Rows of the test clips.
        names: Names of the groups, one for each clip (clips,), for the message.

    Raises:
        SplitError: groups that are on both sides.
    """
    both = np.intersect1d(groups[train_rows], groups[test_rows])
    if len(both):
        words = [str(group if names is None else names[np.flatnonzero(groups == group)[0]]) for group in both]
        raise SplitError(
            f"{len(both)} groups have clips among the training and among the test rows "
            f"({', '.join(words[:10])}{', ...' * (len(words) > 10)}): put each on one side."
        )


def check_rows(labels: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray) -> None:
    """Check that a split can be used.

    Args:
        labels: Class numbers (clips,), or bool (clips, classes).
        train_rows: Rows of the training clips.
        test_rows: Rows of the test clips.

    Raises:
        SplitError: no rows on one side, a clip on both, or a test class without training clips.
    """
    if len(train_rows) == 0 or len(test_rows) == 0:
        raise SplitError(f"A split has {len(train_rows)} training and {len(test_rows)} test rows.")
    if both := np.intersect1d(train_rows, test_rows).tolist():
        raise SplitError(f"{len(both)} clips are training and test rows at once, the first is clip {both[0]}.")
    if is_multi_label(labels):
        train, test = labels[train_rows], labels[test_rows]
        unknown = np.flatnonzero(measurable_classes(test) & ~measurable_classes(train))
    else:
        unknown = np.setdiff1d(labels[test_rows], labels[train_rows])
    if len(unknown):
        raise SplitError(
            f"Class {', '.join(map(str, unknown))} is among the test rows but cannot be learnt from the training rows: "
            "use fewer splits, or leave the class out."
        )


def make_splits(
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    folds: Sequence[str] | np.ndarray | None = None,
    n_splits: int = 5,
    seed: int = 0,
    names: Sequence[str] | None = None,
    test_folds: Sequence[str] = (),
) -> list[Split]:
    """Cross-validation splits; every clip is tested once, or those of some folds.

    Args:
        labels: Class numbers (clips,), by which the splits are stratified; or bool (clips, classes), by which they are
            not.
        groups: Speaker or source of each clip (clips,); all clips of a group are in the same fold.
        folds: Official fold of each clip (clips,) as text; each is the test fold once, in the order of the text.
        n_splits: Number of random folds, where there are no official ones.
        seed: Random seed of the folds, where there are no official ones.
        names: Names of the groups, one for each clip (clips,), for messages.
        test_folds: Official folds that are test folds; the others are for training only. All if empty.

    Returns:
        Training and test rows of each split.

    Raises:
        SplitError: a group in two folds, a single fold, a clip without one, a test fold that there is not, or fewer
            clips or groups of a class than splits.
    """
    if folds is None and test_folds:
        raise SplitError(f"test_folds={', '.join(test_folds)}: there are no official folds.")
    if folds is None:
        splits = random_splits(labels, groups, n_splits, seed)
    else:
        splits = official_splits(np.asarray(folds), test_folds)
    for train, test in splits:
        if groups is not None:
            check_split(groups, train, test, names)
        check_rows(labels, train, test)
    return splits


def official_splits(folds: np.ndarray, test_folds: Sequence[str] = ()) -> list[Split]:
    """Splits in which each fold (clips,), or each of the test folds, is the test fold once."""
    values = np.unique(folds)
    if "" in values:
        raise SplitError(f"{(folds == '').sum()} clips are in no fold, the first is clip {(folds == '').argmax()}.")
    if len(values) < 2:
        raise SplitError(f"All clips are in fold {values[0]}: at least two folds are needed.")
    if absent := sorted(set(test_folds) - set(values)):
        raise SplitError(f"No clip is in the test fold {', '.join(absent)}; there are {', '.join(values)}.")
    if test_folds:  # what is tested is never learnt
        training = np.flatnonzero(~np.isin(folds, test_folds))
        return [(training, np.flatnonzero(folds == value)) for value in values if value in test_folds]
    return [(np.flatnonzero(folds != value), np.flatnonzero(folds == value)) for value in values]


def random_splits(labels: np.ndarray, groups: np.ndarray | None, n_splits: int, seed: int) -> list[Split]:
    """Random stratified folds, which keep groups together."""
    if n_splits < 2:
        raise SplitError(f"n_splits={n_splits}: at least two are needed.")
    classes = np.zeros(len(labels), int) if is_multi_label(labels) else labels
    units = np.arange(len(labels)) if groups is None else groups
    for number in np.unique(classes):
        count = len(np.unique(units[classes == number]))
        if count < n_splits:
            what = "There are" if is_multi_label(labels) else f"Class {number} has"
            unit = "clips" if groups is None else "groups"
            raise SplitError(f"{what} {count} {unit}, fewer than n_splits={n_splits}: lower n_splits.")
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    return list(splitter(n_splits, shuffle=True, random_state=seed).split(classes, classes, groups))


__all__ = ["Split", "SplitError", "check_rows", "check_split", "make_splits"]
