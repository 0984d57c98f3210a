"""Metrics of a fine-tuned model: `compute_metrics` for the Trainer, and a plot of the confusion matrix."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import mean_absolute_error, mean_squared_error
from transformers import EvalPrediction
from transformers.utils import logging

from ..metrics.modules import load_metric
from ..training.arguments import direction

logger = logging.get_logger(__name__)

# The metric that chooses the best model.
BEST: Mapping[str, str] = {
    "single_label_classification": "accuracy",
    "multi_label_classification": "mean_average_precision",
    "regression": "mse",
}


def best_metric(problem_type: str) -> tuple[str, bool]:
    """Metric that chooses the best model and whether more is better: `metric_for_best_model`, `greater_is_better`.

    Args:
        problem_type: As in the model's configuration.

    Raises:
        ValueError: there is no such problem type.
    """
    if problem_type not in BEST:
        raise ValueError(f"problem_type={problem_type!r}: there are {', '.join(BEST)}.")
    return BEST[problem_type], direction(BEST[problem_type])


def make_compute_metrics(problem_type: str, label_names: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` for the Trainer, from the package's metrics for `evaluate`.

    Args:
        problem_type: As in the model's configuration. It decides the metrics:

            - `"single_label_classification"`, logits (clips, classes) and class numbers (clips,): `accuracy`,
              `balanced_accuracy`, and `accuracy_NAME` of each class.
            - `"multi_label_classification"`, logits (clips, classes) and 0/1 labels of that shape:
              `mean_average_precision`, `micro_average_precision`, and `average_precision_NAME` of each class.
            - `"regression"`, predictions (clips, 1) and values (clips,): `mse`, `mae`, and Pearson's correlation
              `pearson`, left out where all predictions or all values are equal: it is not defined then.
        label_names: Class names, in the order of their numbers. Classes without a clip have no metric, nor have classes
            of all clips an average precision; they are named in a warning and do not count in the means.

    Raises:
        ValueError: there is no such problem type; when measuring, predictions that are not finite or rows that cannot
            be measured.
    """
    best_metric(problem_type)
    if problem_type == "regression":
        return regression_metrics
    if problem_type == "multi_label_classification":
        precision = load_metric("mean_average_precision")

        def multi_label_metrics(prediction: EvalPrediction) -> dict[str, float]:
            result = precision.compute(predictions=logits_of(prediction), references=prediction.label_ids)
            by_class, left_out = result.pop("by_class"), result.pop("left_out")
            everywhere = [
                label_names[number] for number in left_out if np.asarray(prediction.label_ids)[:, number].all()
            ]
            if everywhere:
                logger.warning_once(
                    f"Not measured, because all clips to evaluate on have them: {', '.join(everywhere)}."
                )
            absent = [label_names[number] for number in left_out if label_names[number] not in everywhere]
            return result | name_classes("average_precision", by_class, label_names, absent)

        return multi_label_metrics
    accuracy = load_metric("classification_accuracy")

    def single_label_metrics(prediction: EvalPrediction) -> dict[str, float]:
        result = accuracy.compute(
            predictions=logits_of(prediction).argmax(axis=1),
            references=prediction.label_ids,
            num_classes=len(label_names),
        )
        del result["confusion_matrix"]  # trackers take numbers
        by_class = result.pop("by_class")
        absent = [name for number, name in enumerate(label_names) if number not in by_class]
        return result | name_classes("accuracy", by_class, label_names, absent)

    return single_label_metrics


def logits_of(prediction: EvalPrediction) -> np.ndarray:
    """Logits of a prediction, which may also hold hidden states.

    Raises:
        ValueError: they are not finite; the predicted class would be 0.
    """
    values = prediction.predictions
    logits = values[0] if isinstance(values, tuple) else values
    finite = np.isfinite(logits).reshape(len(logits), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"The predictions for {(~finite).sum()} of {len(logits)} clips are not finite.")
    return logits


def name_classes(
    metric: str, by_class: Mapping[int, float], label_names: Sequence[str], absent: Sequence[str]
) -> dict[str, float]:
    """Metrics of classes by name, since trackers take no nested dictionaries.

    Args:
        metric: Name of the metric.
        by_class: Value by class number.
        label_names: Class names.
        absent: Classes that no clip has, which are named in a warning once.
    """
    if absent:
        logger.warning_once(f"Not measured, because no clip to evaluate on has them: {', '.join(absent)}.")
    return {f"{metric}_{label_names[number]}": value for number, value in by_class.items()}


def regression_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Errors and correlation of predicted numbers."""
    references = np.asarray(prediction.label_ids, dtype=np.float64).ravel()
    predictions = np.asarray(logits_of(prediction), dtype=np.float64).reshape(references.shape)
    metrics = {
        "mse": float(mean_squared_error(references, predictions)),
        "mae": float(mean_absolute_error(references, predictions)),
    }
    if np.ptp(references) > 0 and np.ptp(predictions) > 0:
        metrics["pearson"] = float(np.corrcoef(references, predictions)[0, 1])
    return metrics


def write_confusion_matrix(
    path: str | Path, references: np.ndarray, predictions: np.ndarray, label_names: Sequence[str]
) -> None:
    """Write a plot of the confusion matrix; needs matplotlib (`pip install uamix_hf[demo]`).

    Args:
        path: File to write; its ending decides the format.
        references: True class numbers (clips,).
        predictions: Predicted class numbers (clips,).
        label_names: Class names, in the order of their numbers.
    """
    from ..metrics.plots import plot_confusion

    result = load_metric("classification_accuracy").compute(
        predictions=predictions, references=references, num_classes=len(label_names)
    )
    title = f"{100 * result['accuracy']:.1f} % of {len(references):,} clips"
    plot_confusion(path, {title: np.array(result["confusion_matrix"])}, label_names)


__all__ = ["best_metric", "make_compute_metrics", "write_confusion_matrix"]
