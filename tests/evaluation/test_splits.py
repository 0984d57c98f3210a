"""No group straddles a split, every clip is tested once, and what the data cannot give is refused by name."""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest

from uamix_hf.data import as_groups, column_as_text, load_recordings
from uamix_hf.evaluation import SplitError, check_split, make_splits
from uamix_hf.metrics.checks import EvaluationError


def corpus(classes: int = 4, speakers: int = 15, clips: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Every speaker says one class only, as sources of environmental sound do."""
    groups = np.repeat(np.arange(classes * speakers), clips)
    return groups % classes, groups


def check(splits: list, clips: int, groups: np.ndarray | None = None) -> None:
    assert np.sort(np.concatenate([test for _, test in splits])).tolist() == list(range(clips))
    for train, test in splits:
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(clips))
        if groups is not None:
            assert not set(groups[train].tolist()) & set(groups[test].tolist())


@pytest.mark.parametrize("n_splits", [2, 5])
@pytest.mark.parametrize("grouped", [False, True])
def test_random_splits(n_splits: int, grouped: bool) -> None:
    labels, groups = corpus()
    groups = groups if grouped else None
    splits = make_splits(labels, groups, n_splits=n_splits, seed=1)
    assert len(splits) == n_splits
    check(splits, len(labels), groups)
    for _, test in splits:  # 45 clips a class: the same share of each in every split, up to a group
        assert np.abs(np.bincount(labels[test], minlength=4) - 45 / n_splits).max() <= 3

    def rows(seed: int) -> list:
        return [test.tolist() for _, test in make_splits(labels, groups, n_splits=n_splits, seed=seed)]

    assert rows(1) == [test.tolist() for _, test in splits] != rows(2)


def test_multi_label_clips_are_split_by_group() -> None:
    groups = np.arange(60) // 3
    labels = np.random.default_rng(0).random((60, 4)) < 0.5
    splits = make_splits(labels, groups, n_splits=4)
    check(splits, 60, groups)
    assert [len(test) for _, test in splits] == [15] * 4
    check(make_splits(labels, None, n_splits=4), 60)


def test_test_folds_are_tested_by_what_is_learnt_from_the_others() -> None:
    labels, groups = corpus(speakers=10)
    folds = np.array(["train", "validation", "test"])[groups % 3]
    ((train, test),) = make_splits(labels, groups, folds, test_folds=["test"])
    assert set(folds[train]) == {"train", "validation"} and set(folds[test]) == {"test"}
    assert len(train) + len(test) == len(labels)
    splits = make_splits(labels, groups, folds, test_folds=["test", "validation"])
    assert [set(folds[rows]) for rows, _ in splits] == [{"train"}] * 2  # what is tested is never learnt
    with pytest.raises(SplitError, match="No clip is in the test fold dev; there are test, train, validation"):
        make_splits(labels, groups, folds, test_folds=["dev"])
    with pytest.raises(SplitError, match="test_folds=test: there are no official folds"):
        make_splits(labels, groups, test_folds=["test"])


def test_official_folds_are_test_rows_once_each() -> None:
    labels, groups = corpus(speakers=10)
    folds = np.array(["a", "b", "c"])[groups % 3]
    splits = make_splits(labels, groups, folds, n_splits=17)
    assert [set(folds[test]) for _, test in splits] == [{"a"}, {"b"}, {"c"}]
    check(splits, len(labels), groups)
    assert [test.tolist() for _, test in make_splits(labels, None, folds.tolist())] == [
        test.tolist() for _, test in splits
    ]


def test_official_folds_of_real_data(esc10: Path) -> None:
    """Rows are read a second time, by csv: five folds of 80 clips, eight of each class."""
    table = load_recordings(esc10)
    names, labels = np.unique(column_as_text(table, "label"), return_inverse=True)
    sources = column_as_text(table, "src_file")
    splits = make_splits(labels, as_groups(sources), column_as_text(table, "fold"), names=sources)
    with open(esc10 / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [{rows[row]["fold"] for row in test} for _, test in splits] == [{fold} for fold in "12345"]
    for train, test in splits:
        assert len(test) == 80 and np.bincount(labels[test]).tolist() == [8] * 10
        assert not {rows[row]["src_file"] for row in train} & {rows[row]["src_file"] for row in test}
        assert all(rows[row]["label"] == names[labels[row]] for row in test)
    with pytest.raises(SplitError, match="among the training and among the test rows"):  # folds that ignore sources
        make_splits(labels, as_groups(sources), [str(row % 5) for row in range(400)])


def test_straddling_groups_are_named() -> None:
    groups, names = np.array([0, 0, 1, 1, 2, 2]), ["ann", "ann", "bob", "bob", "cid", "cid"]
    check_split(groups, np.array([0, 1]), np.array([2, 3]))
    with pytest.raises(SplitError, match=r"^2 groups have .*\(bob, cid\)") as caught:
        check_split(groups, np.array([0, 1, 2, 4]), np.array([3, 5]), names)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, EvaluationError)
    with pytest.raises(SplitError, match=r"^1 groups have .*\(2\)"):
        check_split(groups, np.array([4]), np.array([5]))
    with pytest.raises(SplitError, match="bob"):
        make_splits(np.array([0, 1] * 3), groups, ["1", "1", "1", "2", "2", "2"], names=names)


def test_impossible_splits_say_what_to_change() -> None:
    labels, groups = corpus(classes=2, speakers=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SplitError, match="Class 0 has 4 groups, fewer than n_splits=5: lower n_splits"):
            make_splits(labels, groups)
        with pytest.raises(SplitError, match="Class 1 has 3 clips, fewer than n_splits=5"):
            make_splits(np.repeat([0, 1], [20, 3]))
        with pytest.raises(SplitError, match="There are 4 groups"):
            make_splits(np.ones((8, 3), bool), np.arange(8) // 2)
        with pytest.raises(SplitError, match="n_splits=1"):
            make_splits(labels, n_splits=1)
        with pytest.raises(SplitError, match="All clips are in fold 3"):
            make_splits(labels, None, ["3"] * 24)
        with pytest.raises(SplitError, match="2 clips are in no fold, the first is clip 5"):
            make_splits(labels, None, ["1"] * 5 + ["", ""] + ["2"] * 17)
        with pytest.raises(SplitError, match="Class 1 .* cannot be learnt"):
            make_splits(np.array([0, 0, 0, 1]), None, ["1", "2", "1", "2"])
