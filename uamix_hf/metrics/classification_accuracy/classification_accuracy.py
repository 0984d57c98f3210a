"""Accuracy of a classifier overall, balanced and by class, as a metric for `evaluate`; it does not need uamix_hf."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import confusion_matrix

DESCRIPTION = """
Accuracy of a classifier: over all clips, as the mean over classes (balanced), of each class, and the confusion matrix
that they come from.
"""
INPUTS = """
Args:
    predictions: Predicted class number of each clip, from 0 on.
    references: Its true class number.
    num_classes: How many classes there are, for the size of the confusion matrix; by default up to the highest number.
Returns:
    accuracy: Fraction of the clips that are predicted correctly, in [0, 1].
    balanced_accuracy: Mean of `by_class`.
    by_class: Fraction of each class's clips that are predicted correctly (its recall), by number of classes with clips.
    confusion_matrix: Numbers of clips, a row for each true class and a column for each predicted one.
Example:
    >>> metric = evaluate.load("classification_accuracy")
    >>> metric.compute(predictions=[0, 0, 0, 1], references=[0, 0, 0, 0])["accuracy"]
    0.75
"""
CITATION = """
@software{uamix_hf,
  author = {{The uamix_hf contributors}},
  title = {{uamix_hf: Audio-MAE in transformers, and uaMix tuning}}
}
"""


class ClassificationAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")}),
            format="numpy",
        )

    def _compute(self, predictions, references, num_classes=None) -> dict:
        if len(predictions) == 0:
            raise ValueError("There are no predictions.")
        numbers = np.concatenate([predictions, references])
        size = numbers.max() + 1 if num_classes is None else num_classes
        if numbers.min() < 0 or numbers.max() >= size:
            wrong = numbers[(numbers < 0) | (numbers >= size)][0]
            raise ValueError(f"Class number {wrong}: there are 0 ... {size - 1}.")
        matrix = confusion_matrix(references, predictions, labels=np.arange(size))
        clips, hits = matrix.sum(axis=1), matrix.diagonal()
        by_class = {number: float(hits[number] / clips[number]) for number in np.flatnonzero(clips).tolist()}
        return {
            "accuracy": float(hits.sum() / clips.sum()),
            "balanced_accuracy": float(np.mean(list(by_class.values()))),
            "by_class": by_class,
            "confusion_matrix": matrix.tolist(),
        }
