"""Which metric chooses the best model, settled before training."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from ..training.arguments import check_metric, direction
from .arguments import FineTuningArguments
from .metrics import best_metric


def measured(
    compute_metrics: Callable[[EvalPrediction], dict[str, float]], dataset: Dataset | None, outputs: int
) -> list[str]:
    """Names of the metrics that evaluation will give; [] without rows.

    They are computed from random predictions, so that what cannot be measured is an error before training and not after
    the first epoch.

    Args:
        compute_metrics: Of [`make_compute_metrics`].
        dataset: Rows to evaluate on.
        outputs: Number of logits.

    Raises:
        ValueError: there are no rows, or their labels cannot be measured.
    """
    if dataset is None:
        return []
    if len(dataset) == 0:
        raise ValueError("There are no rows to evaluate on.")
    predictions = np.random.default_rng(0).standard_normal((len(dataset), outputs))
    return [
        "loss",
        *compute_metrics(EvalPrediction(predictions=predictions, label_ids=np.asarray(dataset["labels"][:]))),
    ]


def settle_evaluation(args: FineTuningArguments, problem_type: str, names: Sequence[str]) -> FineTuningArguments:
    """Arguments with the metric that chooses the best model filled in; without evaluation, with that turned off.

    Args:
        args: Arguments as given.
        problem_type: As in the model's configuration.
        names: Names of the metrics; none where there are no rows to evaluate on.

    Raises:
        ValueError: a metric that is not measured, or arguments of an evaluation without rows for it.
    """
    if not names or args.eval_strategy == "no":
        given = ("metric_for_best_model", "greater_is_better", "eval_on_start", "eval_delay")
        idle = [name for name in given if args.is_given(name)] + ["save_strategy"] * (args.save_strategy == "best")
        if idle:
            raise ValueError(
                f"{', '.join(idle)}: nothing is evaluated. Give rows to evaluate on (eval_fraction, eval_where)."
            )
        return dataclasses.replace(
            args, eval_strategy="no", do_eval=False, eval_steps=None, load_best_model_at_end=False,
            metric_for_best_model=None, greater_is_better=None,
        )  # fmt: skip
    name = best_metric(problem_type)[0] if args.metric_for_best_model == "auto" else args.metric_for_best_model
    if name is None:
        return args
    check_metric(name, names)
    greater = direction(name, args.greater_is_better)
    return dataclasses.replace(args, metric_for_best_model=name, greater_is_better=greater)


__all__ = ["measured", "settle_evaluation"]
