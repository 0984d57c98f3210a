"""A trainer whose classifier starts as one of frozen embeddings, which is a candidate for the model that is kept."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils import gather_object
from datasets import Dataset

from ..training.arguments import direction
from ..training.trainer import LengthBucketTrainer
from .batches import class_weights
from .head_init import FROZEN_CLASSIFIERS, head_inputs, linear_head, set_head
from .metrics import best_metric

logger = logging.getLogger(__name__)


class FrozenComparison(NamedTuple):
    """A metric of the evaluation rows before training and after it.

    Args:
        metric: Its name, without `eval_`.
        frozen: Its value for the classifier of frozen embeddings that training started from.
        trained: Its value for the best evaluated weights after that, or for the last ones where those are kept.
    """

    metric: str
    frozen: float
    trained: float

    @property
    def frozen_is_better(self) -> bool:
        """Whether training gained nothing."""
        return self.frozen >= self.trained if direction(self.metric) else self.frozen <= self.trained

    def __str__(self) -> str:
        return f"{self.metric} {self.frozen:.4f} before training (frozen embeddings), {self.trained:.4f} after"


class FrozenStartTrainer(LengthBucketTrainer):
    """Trainer that sets the linear layer before the first step, and evaluates this frozen classifier, too.

    Subclasses have the `model`, `args` with a settled `head_init`, `problem_type` and `feature_extractor` of
    [`FineTuningTrainer`].
    """

    args: Any
    model: Any
    problem_type: str
    feature_extractor: Any
    head_is_set = False
    replaces_head = False  # whether `head_init` is to replace the layer that the model came with

    def of_all_rows(self, dataset: Dataset, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Values of all rows of a dataset (rows, width) float32, a part of which each process computes."""
        rows = np.arange(len(dataset))[self.args.process_index :: self.args.world_size]
        mine = compute(rows)
        values = np.empty((len(dataset), mine.shape[1]), np.float32)
        for part, computed in gather_object([(rows, mine)]):
            values[part] = computed
        return values

    def start(self) -> None:
        args = self.args
        is_new = getattr(self.model, "has_new_head", False)
        if args.head_init in FROZEN_CLASSIFIERS and not self.head_is_set and (is_new or self.replaces_head):
            if not is_new:
                logger.warning("head_init=%s replaces the linear layer that the model comes with.", args.head_init)
            dataset: Any = self.train_dataset
            inputs = self.of_all_rows(
                dataset,
                lambda rows: head_inputs(self.model, self.feature_extractor, dataset, rows, args.eval_batch_size),
            )
            labels = np.asarray(dataset["labels"][:])
            weights = len(labels) * class_weights(labels)[0] if args.class_balanced else None
            set_head(
                self.model,
                *linear_head(inputs, labels, self.model.num_labels, args.head_init, args.logistic_c, weights),
            )
        self.head_is_set = True
        if args.head_init != "random" and args.eval_strategy != "no" and not args.eval_delay:
            args.eval_on_start = True

    def _evaluate(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = super()._evaluate(trial, *args, **kwargs)
        # transformers evaluates before the first step, but neither compares nor saves.
        if self.state.global_step == 0 and self.args.load_best_model_at_end:
            self._determine_best_metric(metrics, trial)
            folder = Path(self._get_output_dir(trial)) / "checkpoint-0"
            self.state.best_model_checkpoint = str(folder)
            self._save_checkpoint(self.model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        return metrics

    def frozen_comparison(self) -> FrozenComparison | None:
        """What the evaluations before and after training say; None where one of them is missing."""
        if self.args.head_init == "random":
            return None
        metric = self.args.metric_for_best_model or best_metric(self.problem_type)[0]
        metric, logs = metric.removeprefix("eval_"), self.state.log_history
        found = [(entry["step"], entry[f"eval_{metric}"]) for entry in logs if f"eval_{metric}" in entry]
        frozen, trained = ([value for step, value in found if (step == 0) == start] for start in (True, False))
        if not frozen or not trained:
            return None
        best = max if direction(metric) else min
        return FrozenComparison(metric, frozen[0], best(trained) if self.args.load_best_model_at_end else trained[-1])

    def report_comparison(self) -> None:
        """Log what training gained on the evaluation rows, with a warning where that is nothing."""
        found = self.frozen_comparison()
        if found is None or not self.is_world_process_zero():
            return
        if not found.frozen_is_better:
            logger.info("Evaluation rows: %s.", found)
        elif self.args.load_best_model_at_end:
            logger.warning("Training was no better than the frozen encoder: %s. The model of step 0 is kept.", found)
        else:
            logger.warning(
                "Training was no better than the frozen encoder: %s. The trained weights are kept all the same; "
                "load_best_model_at_end keeps the best ones.", found,
            )  # fmt: skip


__all__ = ["FrozenComparison", "FrozenStartTrainer"]
