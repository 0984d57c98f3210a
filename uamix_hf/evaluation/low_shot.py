"""Low-shot accuracy: k labelled clips of every class, all test clips (method.md 3.6)."""

from collections.abc import Sequence

import numpy as np

from ..data.labels import draw_labelled
from ..metrics.checks import check_clips, check_single_label
from .classifiers import find_classifier
from .scores import Scores
from .splits import Split, SplitError, check_rows


def low_shot_accuracy(
    vectors: np.ndarray,
    labels: np.ndarray,
    splits: Sequence[Split],
    k: int,
    seeds: Sequence[int],
    classifier: str = "nearest_centroid",
) -> Scores:
    """Accuracy on all test rows after `k` labelled clips per class; a draw is a seed in a split.

    Draws of one split share its test clips, and seeds much of their training clips, so that their interval is narrow.

    Args:
        vectors: Embeddings (clips, width). labels: Class numbers (clips,). splits: Of [`make_splits`].
        classifier: A key of `CLASSIFIERS`.

    Raises:
        EvaluationError: labels of several classes a clip, or no such classifier. SplitError: no splits or seeds.
        DataError: too few clips of a class.
    """
    check_single_label(labels, "low_shot_accuracy")
    check_clips(vectors, labels)
    predict = find_classifier(classifier)
    if not splits or not seeds:
        raise SplitError(f"There are {len(splits)} splits and {len(seeds)} seeds: at least one of each is needed.")
    hits, classes, draws = [], [], []
    for number, (seed, (train, test)) in enumerate((seed, split) for seed in seeds for split in splits):
        check_rows(labels, train, test)
        labelled = draw_labelled(labels, train, k, seed)
        hits.append(predict(vectors[labelled], labels[labelled], vectors[test]) == labels[test])
        classes.append(labels[test])
        draws.append(np.full(len(test), number))
    return Scores.from_clips(np.concatenate(hits), np.concatenate(classes), np.concatenate(draws))


__all__ = ["low_shot_accuracy"]
