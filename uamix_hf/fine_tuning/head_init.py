"""First weights of a classifier's linear layer: a classifier of the frozen embeddings of the training clips."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression

from ..embedding.features import average_outputs
from ..metrics.checks import measurable_classes
from ..models.front_ends import FrontEnd
from .arguments import HeadInit
from .models import longest_window

FROZEN_CLASSIFIERS = ("logistic", "centroid")


def resolve_head_init(given: HeadInit | None, problem_type: str, is_new: bool) -> HeadInit:
    """How the linear layer of a model starts.

    Args:
        given: Value of `head_init`.
        problem_type: As in the model's configuration.
        is_new: Whether [`make_classifier`] made the layer, and nothing has trained it since.

    Raises:
        ValueError: A classifier for numbers, a new layer that is to be kept, or a trained one that is to be random.
    """
    if problem_type == "regression" and given in FROZEN_CLASSIFIERS:
        raise ValueError(f"head_init={given}: a regression has no classes. Leave it out.")
    if given == "keep" and is_new:
        raise ValueError("head_init=keep: the model has a new linear layer, which nothing has trained. Leave it out.")
    if given == "random" and not is_new:
        raise ValueError(
            "head_init=random: the model comes with a linear layer. Make a new one of its encoder by make_classifier."
        )
    if given is not None:
        return given
    if not is_new:
        return "keep"
    return "random" if problem_type == "regression" else "logistic"


def head_inputs(
    model: Any, feature_extractor: FrontEnd, dataset: Dataset, rows: np.ndarray | None = None, batch_size: int = 32
) -> np.ndarray:
    """Inputs of a classifier's linear layer for whole recordings: what its logits are a linear function of.

    Args:
        model: Classifier of [`make_classifier`]; set to evaluation mode.
        feature_extractor: Normalises and pads.
        dataset: Log-mels.
        rows: Rows of it (rows,) int; all by default.
        batch_size: Windows in a batch.

    Returns:
        Means over the windows of each recording (rows, in_features) float32.

    Raises:
        ValueError: Inputs that are not finite.
    """
    seen: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    def forward(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        model(values, mask)
        return seen.pop()

    try:
        return average_outputs(
            forward, model, feature_extractor, dataset, rows, batch_size, model.classifier.in_features,
            longest_window(model, feature_extractor),
        )  # fmt: skip
    finally:
        hook.remove()


def linear_head(
    inputs: np.ndarray,
    labels: np.ndarray,
    classes: int,
    kind: str = "logistic",
    c: float = 10.0,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a linear layer that classifies as a classifier of frozen embeddings does.

    The classifier is fitted to embeddings that are centred and divided by one number, the root of their mean squared
    norm, so that it is a linear function of the embeddings as they are. With several classes per clip there is one
    for each class against the others. A class that no clip has, or that all clips have where there may be several,
    gets a bias alone: the logit of half a clip more.

    Args:
        inputs: Embeddings of the training clips, float (clips, width).
        labels: Class numbers (clips,), or 0/1 (clips, classes).
        classes: Outputs of the layer.
        kind: `"logistic"`: scikit-learn's L2-regularised logistic regression; of two classes, its decision function is
            the difference of the two logits. `"centroid"`: minus the squared distance from the mean of each class,
            less what is common to all classes.
        c: C of the logistic regression.
        weights: Weight of each clip (clips,); equal by default.

    Returns:
        Weight (classes, width) and bias (classes,), float64.
    """
    inputs = inputs.astype(np.float64)
    centre = inputs.mean(axis=0)
    scale = np.sqrt(((inputs - centre) ** 2).sum(axis=1).mean()) or 1.0
    vectors = (inputs - centre) / scale
    weight, rare = np.zeros((classes, inputs.shape[1])), np.log(2 * len(inputs) + 1)
    bias = np.full(classes, -rare)

    def centroid(rows: np.ndarray) -> np.ndarray:
        return np.average(vectors[rows], axis=0, weights=None if weights is None else weights[rows])

    def two(is_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if kind == "logistic":
            fitted = LogisticRegression(C=c, max_iter=10_000).fit(vectors, is_class, weights)
            return fitted.coef_[0], fitted.intercept_[0]
        without, mean = centroid(~is_class), centroid(is_class)
        return 2 * (mean - without), without @ without - mean @ mean

    if labels.ndim > 1:
        labels = labels > 0
        bias[labels.all(axis=0)] = rare
        for number in np.flatnonzero(measurable_classes(labels)):
            weight[number], bias[number] = two(labels[:, number])
    else:
        present = np.unique(labels)
        if kind == "centroid":
            means = np.stack([centroid(labels == number) for number in present])
            weight[present], bias[present] = 2 * means, -(means**2).sum(axis=1)
        elif len(present) == 1:
            bias[present] = 0.0
        elif len(present) == 2:
            slope, intercept = two(labels == present[1])
            weight[present], bias[present] = np.outer([-0.5, 0.5], slope), np.multiply([-0.5, 0.5], intercept)
        else:
            fitted = LogisticRegression(C=c, max_iter=10_000).fit(vectors, labels, weights)
            weight[present], bias[present] = fitted.coef_, fitted.intercept_
    weight /= scale
    return weight, bias - weight @ centre


@torch.no_grad()
def set_head(model: Any, weight: np.ndarray, bias: np.ndarray) -> None:
    """Set weight (classes, width) and bias (classes,) of a classifier's linear layer."""
    model.classifier.weight.copy_(torch.from_numpy(weight))
    model.classifier.bias.copy_(torch.from_numpy(bias))


__all__ = ["FROZEN_CLASSIFIERS", "head_inputs", "linear_head", "resolve_head_init", "set_head"]
