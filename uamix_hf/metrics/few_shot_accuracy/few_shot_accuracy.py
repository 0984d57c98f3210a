"""Few-shot accuracy with its interval over episodes, as a metric for `evaluate`; it does not need uamix_hf."""

import datasets
import evaluate
import numpy as np

DESCRIPTION = """
Accuracy over few-shot episodes: the mean over episodes of the mean over the episode's classes, with the half width of
its 95 % interval, and the accuracy of each class.
"""
INPUTS = """
Args:
    predictions: Predicted class number of each query.
    references: Its true class number, the same for a class in all episodes.
    episodes: Number of the episode in which it was classified.
Returns:
    accuracy: In [0, 1].
    interval: Half width of the 95 % interval of the mean over episodes, None for a single one. Normal approximation for
        30 episodes or more, Student's t below. It does not cover another pool of clips or other classes.
    by_class: Accuracy of each class over the episodes that have it, by class number.
Example:
    >>> metric = evaluate.load("few_shot_accuracy")
    >>> metric.compute(predictions=[0, 1, 0, 0], references=[0, 1, 0, 1], episodes=[0, 0, 1, 1])["accuracy"]
    0.75
"""
CITATION = """
@software{uamix_hf,
  author = {{The uamix_hf contributors}},
  title = {{uamix_hf: Audio-MAE in transformers, and uaMix tuning}}
}
"""
# 97.5 % quantiles of Student's t for 1, 2, ... 28 degrees of freedom; SciPy would be one more package to install.
STUDENT = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
)  # fmt: skip


class FewShotAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        columns = ("predictions", "references", "episodes")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({name: datasets.Value("int64") for name in columns}),
        )

    def _compute(self, predictions, references, episodes) -> dict:
        if len(predictions) == 0:
            raise ValueError("There are no predictions.")
        hits = np.equal(predictions, references)
        (trials, classes), cell = np.unique([episodes, references], axis=1, return_inverse=True)
        values = group_means(hits, cell.ravel())  # NumPy 2.0 gives it one dimension more
        means = group_means(values, np.unique(trials, return_inverse=True)[1])
        names, number = np.unique(classes, return_inverse=True)
        interval = None
        if len(means) > 1:
            quantile = 1.96 if len(means) >= 30 else STUDENT[len(means) - 2]
            interval = float(quantile * means.std(ddof=1) / np.sqrt(len(means)))
        by_class = dict(zip(names.tolist(), group_means(values, number).tolist(), strict=True))
        return {"accuracy": float(means.mean()), "interval": interval, "by_class": by_class}


def group_means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mean of the values (n,) of each group 0, 1, ..."""
    return np.bincount(group, weights=values) / np.bincount(group)
