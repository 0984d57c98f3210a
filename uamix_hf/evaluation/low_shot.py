"""Low-shot accuracy: k labelled clips of every class, all test clips (docs/concepts/evaluation.md, Low-shot)."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..data.labels import draw_labelled
from ..metrics.checks import check_clips, check_single_label
from .classifiers import find_classifier
from .scores import Scores
from .splits import Split, SplitError, check_rows


def low_shot_trials(
    labels: np.ndarray, splits: Sequence[Split], k: int, seeds: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Seed, labelled rows and test rows of each trial: every split for the first seed, then for the next.

    Args:
        labels: Class numbers (clips,).
        splits: Of [`make_splits`].
        k: Labelled clips per class.
        seeds: Each chooses labelled clips in every split.

    Raises:
        SplitError: no splits or seeds, or a split that cannot be used.
        DataError: too few training clips of a class.
    """
    if not splits or not seeds:
        raise SplitError(f"There are {len(splits)} splits and {len(seeds)} seeds: at least one of each is needed.")
    for train, test in splits:
        check_rows(labels, train, test)
    for seed in seeds:
        for train, test in splits:
            yield seed, draw_labelled(labels, train, k, seed), test


def low_shot_accuracy(
    embeddings: np.ndarray,
    labels: np.ndarray,
    splits: Sequence[Split],
    k: int,
    seeds: Sequence[int],
    classifier: str = "nearest_centroid",
) -> Scores:
    """Accuracy on all test clips, given `k` labelled clips per class; a trial is one seed in one split.

    Trials of one split share its test clips, and seeds share training clips, so the interval is too narrow.

    Args:
        embeddings: float (clips, embedding_size).
        labels: Class numbers (clips,).
        splits: Of [`make_splits`].
        k: Labelled clips per class.
        seeds: Each chooses labelled clips in every split.
        classifier: A key of `CLASSIFIERS`.

    Raises:
        EvaluationError: several labels per clip, or no such classifier.
        SplitError: no splits or seeds.
        DataError: too few clips of a class.
    """
    check_single_label(labels, "low_shot_accuracy")
    check_clips(embeddings, labels)
    predict = find_classifier(classifier)
    correct, classes, trials = [], [], []
    for number, (_, labelled, test) in enumerate(low_shot_trials(labels, splits, k, seeds)):
        correct.append(predict(embeddings[labelled], labels[labelled], embeddings[test]) == labels[test])
        classes.append(labels[test])
        trials.append(np.full(len(test), number))
    return Scores.from_clips(np.concatenate(correct), np.concatenate(classes), np.concatenate(trials))


__all__ = ["low_shot_accuracy", "low_shot_trials"]
