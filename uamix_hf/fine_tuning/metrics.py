"""What a fine-tuned model is measured by: figures for the Trainer, and the confusion matrix as a picture."""

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
    """Name and direction of the figure to choose a model by, for `metric_for_best_model` and `greater_is_better`.

    Args:
        problem_type: As in the model's configuration.

    Raises:
        ValueError: there is no such problem type.
    """
    if problem_type not in BEST:
        raise ValueError(f"problem_type={problem_type!r}: there are {', '.join(BEST)}.")
    return BEST[problem_type], direction(BEST[problem_type])


def make_compute_metrics(problem_type: str, label_names: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` of the Trainer, through the package's modules of `evaluate`.

    Args:
        problem_type: As in the model's configuration. It decides what the function makes of logits and labels:

            - `"single_label_classification"`, logits (clips, classes) and class numbers (clips,): `accuracy`,
              `balanced_accuracy`, and `accuracy_NAME` of each class.
            - `"multi_label_classification"`, logits (clips, classes) and 0/1 labels of that shape:
              `mean_average_precision`, `micro_average_precision`, and `average_precision_NAME` of each class.
            - `"regression"`, predictions (clips, 1) and values (clips,): `mse`, `mae`, and Pearson's correlation
              `pearson`, left out where all predictions or all values are equal: it is not defined then.
        label_names: Of the classes, in the order of their numbers. A class without a clip has no figure, nor has in
            average precision one that all clips have, which is logged once, and does not count in the means.

    Raises:
        ValueError: there is no such problem type; when measuring, predictions that are not finite or rows that tell
            nothing.
    """
    best_metric(problem_type)
    if problem_type == "regression":
        return regression_figures
    if problem_type == "multi_label_classification":
        precision = load_metric("mean_average_precision")

        def multi_label_figures(prediction: EvalPrediction) -> dict[str, float]:
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

        return multi_label_figures
    accuracy = load_metric("classification_accuracy")

    def single_label_figures(prediction: EvalPrediction) -> dict[str, float]:
        result = accuracy.compute(
            predictions=logits_of(prediction).argmax(axis=1),
            references=prediction.label_ids,
            num_classes=len(label_names),
        )
        del result["confusion_matrix"]  # trackers take numbers
        by_class = result.pop("by_class")
        absent = [name for number, name in enumerate(label_names) if number not in by_class]
        return result | name_classes("accuracy", by_class, label_names, absent)

    return single_label_figures


def logits_of(prediction: EvalPrediction) -> np.ndarray:
    """The logits, where the model was asked for hidden states beside them.

    Raises:
        ValueError: they are not finite, of which the class number would be 0.
    """
    values = prediction.predictions
    logits = values[0] if isinstance(values, tuple) else values
    finite = np.isfinite(logits).reshape(len(logits), -1).all(axis=1)
    if not finite.all():
        raise ValueError(f"The predictions for {(~finite).sum()} of {len(logits)} clips are not finite.")
    return logits


def name_classes(
    figure: str, by_class: Mapping[int, float], label_names: Sequence[str], absent: Sequence[str]
) -> dict[str, float]:
    """A figure for each class that has one: trackers take no dictionaries within dictionaries. Classes that no clip has
    are named once."""
    if absent:
        logger.warning_once(f"Not measured, because no clip to evaluate on has them: {', '.join(absent)}.")
    return {f"{figure}_{label_names[number]}": value for number, value in by_class.items()}


def regression_figures(prediction: EvalPrediction) -> dict[str, float]:
    references = np.asarray(prediction.label_ids, dtype=np.float64).ravel()
    predictions = np.asarray(logits_of(prediction), dtype=np.float64).reshape(references.shape)
    figures = {
        "mse": float(mean_squared_error(references, predictions)),
        "mae": float(mean_absolute_error(references, predictions)),
    }
    if np.ptp(references) > 0 and np.ptp(predictions) > 0:
        figures["pearson"] = float(np.corrcoef(references, predictions)[0, 1])
    return figures


def confusion_picture(
    path: str | Path, references: np.ndarray, predictions: np.ndarray, label_names: Sequence[str]
) -> None:
    """Writes the confusion matrix as a picture; needs matplotlib (`pip install uamix_hf[demo]`).

    Args:
        path: Of the file, PNG by its ending. references, predictions: True and given class numbers (clips,).
        label_names: Of the classes, in the order of their numbers.
    """
    from ..metrics.plots import plot_confusion

    result = load_metric("classification_accuracy").compute(
        predictions=predictions, references=references, num_classes=len(label_names)
    )
    title = f"{100 * result['accuracy']:.1f} % of {len(references):,} clips"
    plot_confusion(path, {title: np.array(result["confusion_matrix"])}, label_names)


__all__ = ["best_metric", "confusion_picture", "make_compute_metrics"]
