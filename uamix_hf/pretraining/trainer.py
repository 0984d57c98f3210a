"""transformers' Trainer for masked autoencoding."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..data import DataError, FeatureCollator
from ..data.streaming import AudioStream
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..models.audio_mae.modeling_audio_mae import AudioMAEForPreTraining
from ..training.arguments import check_metric
from ..training.parameter_groups import NO_DECAY
from ..training.trainer import LengthBucketTrainer
from .arguments import PretrainingArguments
from .held_out import HeldOutCollator


class PretrainingTrainer(LengthBucketTrainer):
    """Trainer that pretrains a masked autoencoder on log-mels, cached or streamed.

    Held-out clips are evaluated with fixed masks, so that equal weights give equal losses, for any batch size and
    number of processes. With the joint objective, both parts of the loss are logged.

    ```python
    trainer = PretrainingTrainer(model, args, train_dataset, feature_extractor, eval_dataset)
    trainer.train()
    trainer.save_model()
    print(trainer.evaluate()["eval_loss"])
    ```

    Args:
        model: Of [`pretraining_model`].
        args: Training arguments.
        train_dataset: Log-mels of [`cached_features`], or an [`AudioStream`].
        feature_extractor: Normalises and pads; saved with each checkpoint.
        eval_dataset: Held-out log-mels of [`cached_features`].

    Raises:
        DataError: fewer clips than one step takes, or fewer held-out clips than processes.
        ValueError: a `metric_for_best_model` that is not measured.
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
            data_collator=FeatureCollator(
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
        """Matrices; neither biases and norms nor the class and mask tokens (docs/concepts/method.md, Recipes)."""
        return [name for name, value in model.named_parameters() if value.ndim > 1 and not name.endswith(NO_DECAY)]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args, **kwargs) -> Any:
        return super().compute_loss(model, of_model(inputs), *args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of this process's part of the clips, of similar length.

        All processes have equally many batches; one that has no clips left gets a clip again, which [`evaluation_loop`]
        does not count.
        """
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
            # A generator of its own: evaluation must not advance the random state of training.
            generator=torch.Generator(),
        )

    def skipped_recordings(self) -> int:
        """Number of streamed recordings that could not be read, on all processes; call it on all of them."""
        if not isinstance(self.train_dataset, AudioStream):
            return 0
        return int(self.accelerator.reduce(self.train_dataset.skipped.to(self.args.device)))

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Mean losses over all masked patches of the clips.

        Batches are weighted by their masked patches: the Trainer's mean over batches would depend on the batches.
        """
        names = ("loss", *self.logged)
        model = self.model
        model.eval()
        sums = torch.zeros(len(names) + 1, dtype=torch.float64)
        clips = len(dataloader.dataset)
        left = len(range(self.args.process_index, clips, self.args.world_size))  # of this process's part
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
    """Inputs of the model in a batch; ids and labels are left out."""
    return {name: batch[name] for name in ("input_values", "attention_mask", "noise") if name in batch}


__all__ = ["PretrainingTrainer"]
