"""transformers' Trainer for masked autoencoding."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..data import DataError, LogMelCollator
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.audio_mae.modeling_audio_mae import AudioMAEForPreTraining
from ..training.arguments import check_metric
from ..training.parameter_groups import NO_DECAY
from ..training.trainer import LengthBucketTrainer
from .arguments import PretrainingArguments
from .held_out import HeldOutCollator


class PretrainingTrainer(LengthBucketTrainer):
    """
    Trains on log-mels, cached or streamed; evaluates held-out ones with masks that never change, so that the same
    weights give the same loss, in whichever batches and on however many processes. With the joint objective both parts
    of the loss are logged.

    Args:
        model: To be trained. train_dataset: Of `cached_log_mels`, or an `AudioStream`.
        feature_extractor: Normalises and pads; saved with each checkpoint. eval_dataset: Of `cached_log_mels`.

    Raises:
        DataError: fewer clips than one step takes, or no held-out clip for each process. ValueError: no such
            metric for the best model.
    """

    args: PretrainingArguments
    model: AudioMAEForPreTraining
    logged = ("loss_reconstruction", "loss_contrastive")

    def __init__(
        self,
        model: AudioMAEForPreTraining,
        args: PretrainingArguments,
        train_dataset: Any,
        feature_extractor: AudioMAEFeatureExtractor,
        eval_dataset: Dataset | None = None,
    ):
        batch = args.train_batch_size * args.world_size
        if isinstance(train_dataset, Dataset) and len(train_dataset) < batch:
            raise DataError(
                f"There are {len(train_dataset)} clips to train on and {args.world_size} x {args.train_batch_size} in "
                "a batch: lower --per_device_train_batch_size."
            )
        if eval_dataset is not None and len(eval_dataset) < args.world_size:
            raise DataError(f"{len(eval_dataset)} held-out clips for {args.world_size} processes: hold out more.")
        if args.metric_for_best_model is not None:
            parts = self.logged if model.config.contrastive_weight else ()
            check_metric(args.metric_for_best_model, ["loss", *parts])
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=LogMelCollator(
                feature_extractor,
                model.config.max_length,
                normalize=True,
                roll=args.roll,
                gain_alpha=args.gain_alpha,
                seed=args.seed,
            ),
            processing_class=feature_extractor,
        )
        self.held_out_collator = HeldOutCollator(feature_extractor, model.config)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Matrices; neither biases and norms nor the class and mask tokens (method.md 1.8)."""
        return [name for name, value in model.named_parameters() if value.ndim > 1 and not name.endswith(NO_DECAY)]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args, **kwargs) -> Any:
        return super().compute_loss(model, of_model(inputs), *args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of this process's share of the clips, of like length together. Equally many on all processes; one
        that has nothing left gets a clip again, which [`evaluation_loop`] does not count."""
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        size, world = self.args.eval_batch_size, self.args.world_size
        order = np.argsort(np.asarray(dataset["length"][:]), kind="stable")
        own = order[self.args.process_index :: world].tolist()
        starts = range(0, -(-len(order) // world), size)
        batches = [own[start : start + size] or own[:1] for start in starts]
        return DataLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]  # a list of lists will do
            collate_fn=self.held_out_collator,  # type: ignore[arg-type]
            # Of its own: evaluating must not move the random state that training goes on with.
            generator=torch.Generator(),
        )

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Losses over all removed patches of the clips: that of a batch counts by how many it has, since the Trainer's
        mean over batches would depend on which clips share one."""
        names = ("loss", *self.logged)
        model = self.model
        model.eval()
        sums = torch.zeros(len(names) + 1, dtype=torch.float64)
        clips = len(dataloader.dataset)
        left = len(range(self.args.process_index, clips, self.args.world_size))  # of this process's share
        for inputs in dataloader:
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                outputs = model(**of_model(inputs))
            if left > 0:
                losses = [value.double().item() for name in names if (value := outputs.get(name)) is not None]
                removed = outputs.mask.sum().item()
                sums[: len(losses)] += torch.tensor(losses, dtype=torch.float64) * removed
                sums[-1] += removed
            left -= len(inputs["sample_id"])
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        sums = self.accelerator.reduce(sums.to(self.args.device), "sum").cpu()
        shown = names if model.config.contrastive_weight else names[:1]
        metrics = {f"{metric_key_prefix}_{name}": (sums[i] / sums[-1]).item() for i, name in enumerate(shown)}
        return EvalLoopOutput(None, None, metrics, clips)  # type: ignore[arg-type]


def of_model(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What the model takes of a batch, whose ids name the clips in errors, and whose labels are not learnt."""
    return {name: batch[name] for name in ("input_values", "attention_mask", "noise") if name in batch}


__all__ = ["PretrainingTrainer"]
