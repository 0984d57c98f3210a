"""Callbacks of tuning: the target projector's update, a warning of too few updates, and the kNN check."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data import FeatureCollator
from ..data.checks import checked_batch_size
from ..metrics.knn import leave_one_out_knn, resolve_neighbours

logger = logging.getLogger(__name__)

FEW_UPDATES = 50  # so many at gentle's rate moved Whisper's accuracy by a point (docs/experiments.md)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Context in which a model is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class TargetUpdateCallback(TrainerCallback):
    """Updates the target projector after each optimiser step, not after each forward pass."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs
    ) -> None:
        model.update_target()


class FewUpdatesCallback(TrainerCallback):
    """Warns where gentle's epochs are so few updates that the encoder will hardly change."""

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        counted = args.max_steps < 0 and model.stage == "tune" and args.recipe == "gentle"
        if counted and state.max_steps < FEW_UPDATES and state.is_world_process_zero:
            logger.warning(
                "Only %d updates of the encoder, at gentle's small learning rate: tuning will hardly change it. Raise "
                "--num_train_epochs (now %g), give more recordings, or choose --recipe plastic if the encoder is weak.",
                state.max_steps, args.num_train_epochs,
            )  # fmt: skip


class KNNCallback(TrainerCallback):
    """Logs the leave-one-out kNN accuracy of labelled clips, as `knn_accuracy`, and the number of neighbours.

    It is measured at the start and the end of a stage, and every `knn_steps`. Labels are never learnt from.

    Args:
        dataset: Log-mels with the column `labels`, -1 for clips without a label.
        collator: Makes batches of them, normalised.
        groups: Group of each row (rows,); clips of the same group are not neighbours of each other.
        neighbours: Neighbours that vote, at most as many as [`resolve_neighbours`] allows.
        batch_size: Clips in a batch.
        names: Class names, for messages.

    Raises:
        EvaluationError: labels of which no kNN accuracy can be measured.
        ValueError: a collator that does not normalise.
    """

    def __init__(
        self,
        dataset: Dataset,
        collator: FeatureCollator,
        groups: np.ndarray | None = None,
        neighbours: int = 10,
        batch_size: int = 64,
        names: Sequence[str] | None = None,
    ):
        if not collator.normalize:
            raise ValueError("KNNCallback embeds what its collator makes: give FeatureCollator(..., normalize=True).")
        # A generator of its own: the check must not change what is trained.
        generator = torch.Generator()
        self.loader: DataLoader = DataLoader(
            dataset,
            batch_size=checked_batch_size(batch_size),  # torch takes None for rows without batches
            collate_fn=collator,  # type: ignore[arg-type]
            generator=generator,
        )
        self.groups = groups
        self.names = names
        # Now, not after hours of training.
        self.neighbours, _ = resolve_neighbours(dataset["labels"][:].numpy(), groups, neighbours, names)
        self.log: Callable[[dict[str, float]], None] | None = None  # set by StageTrainer

    @torch.no_grad()
    def accuracy(self, model: Any) -> float:
        """Leave-one-out kNN accuracy of the model's pooled embeddings, a fraction in [0, 1]."""
        vectors, labels = [], []
        with evaluating(model):
            for batch in self.loader:
                lengths = batch["attention_mask"].to(model.device).sum(1)
                (pooled,), _ = model.embed([batch["input_values"].to(model.device)], lengths)
                vectors.append(pooled.cpu().numpy())
                labels.append(batch["labels"].numpy())
        return leave_one_out_knn(
            np.concatenate(vectors), np.concatenate(labels), self.groups, self.neighbours, self.names
        )

    def measure(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        """Measures and logs, in the main process."""
        if self.log is not None and state.is_world_process_zero:
            step_is_logged = control.should_log
            self.log({"knn_accuracy": self.accuracy(model), "knn_neighbours": self.neighbours})
            control.should_log = step_is_logged  # a log of ours must not stand in for the step's own

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == 0:
            self.measure(state, control, model)

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == state.max_steps or (args.knn_steps > 0 and state.global_step % args.knn_steps == 0):
            self.measure(state, control, model)


__all__ = ["FewUpdatesCallback", "KNNCallback", "TargetUpdateCallback"]
