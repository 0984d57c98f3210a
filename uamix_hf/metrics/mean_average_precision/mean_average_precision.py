"""Average precision of clips with several classes, as a metric for `evaluate`; it does not need uamix_hf."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import average_precision_score

DESCRIPTION = """
Mean average precision (mAP) of a classifier that gives each clip a score for every class, where a clip may have
several: the area under each class's curve of precision against recall, summed step by step, without interpolation.
"""
INPUTS = """
Args:
    predictions: Scores (clips, classes), higher where the class is likelier; logits and probabilities serve alike.
    references: 1 where the clip has the class and 0 where it has not, (clips, classes).
Returns:
    mean_average_precision: Mean of `by_class`, in [0, 1]: the macro average, which AudioSet's mAP is.
    micro_average_precision: Of all pairs of clip and class as one ranking.
    by_class: Average precision of each class that some clips have and some have not, by class number.
    left_out: Numbers of the other classes: all clips have them, or none.
Example:
    >>> metric = evaluate.load("mean_average_precision")
    >>> metric.compute(predictions=[[0.9, 0.2], [0.4, 0.7]], references=[[1, 0], [0, 1]])["mean_average_precision"]
    1.0
"""
CITATION = """
@software{uamix_hf,
  author = {{The uamix_hf contributors}},
  title = {{uamix_hf: Audio-MAE in transformers, and uaMix tuning}}
}
"""


class MeanAveragePrecision(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            # References are not int64: a fraction would be cut to 0.
            features=datasets.Features(
                {name: datasets.Sequence(datasets.Value("float64")) for name in ("predictions", "references")}
            ),
        )

    def _compute(self, predictions, references) -> dict:
        sizes = {len(row) for row in [*predictions, *references]}
        if sizes in (set(), {0}):
            raise ValueError("There are no predictions.")
        if len(sizes) > 1:
            raise ValueError(f"Rows have {sorted(sizes)} values: each needs one for every class.")
        scores, labels = np.array(predictions), np.array(references)
        if not np.isfinite(scores).all():
            raise ValueError(f"{(~np.isfinite(scores)).sum()} of {scores.size} scores are not finite.")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"References are 0 or 1, not {labels[~np.isin(labels, (0, 1))][0]:g}.")
        measurable = labels.any(axis=0) & ~labels.all(axis=0)
        if not measurable.any():
            which = "has a class" if not labels.any() else "differs from another in its classes"
            raise ValueError(f"None of the {len(labels)} clips {which}: there is nothing to measure.")
        by_class = {
            number: float(average_precision_score(labels[:, number], scores[:, number]))
            for number in np.flatnonzero(measurable).tolist()
        }
        return {
            "mean_average_precision": float(np.mean(list(by_class.values()))),
            "micro_average_precision": float(average_precision_score(labels.ravel(), scores.ravel())),
            "by_class": by_class,
            "left_out": np.flatnonzero(~measurable).tolist(),
        }
