"""transformers' Trainer with batches of clips of similar length, and with checks for long runs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers import TrainerCallback, set_seed

from ..data import LengthBucketSampler, VisitedRows
from .resuming import ResumableTrainer


class NonFiniteLossError(RuntimeError):
    """The loss, or its gradient, is NaN or infinite; the weights are those before that step.

    Args:
        what: Beginning of the message: loss or gradient.
        step: The step that was not made, counted from 1.
        sample_ids: Clips whose log-mels are not finite, or all clips of the batch if all are finite.
        checkpoint: The last complete checkpoint, if any.
    """

    def __init__(self, what: str, step: int, sample_ids: list[int], checkpoint: str | None):
        self.step, self.sample_ids, self.checkpoint = step, sample_ids, checkpoint
        found = f"the last complete checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        super().__init__(
            f"{what} of step {step} is not finite, for the clips of sample_id {sample_ids}. The weights are those "
            f"before it; {found}. In a new run, leave these clips out or lower the learning rate."
        )


class EpochCallback(TrainerCallback):
    """Sets the sampler's epoch.

    The loader does so too, but not if a run of several processes resumes within an epoch: accelerate does not find the
    sampler below both skipped and sharded batches.
    """

    def __init__(self, trainer: "LengthBucketTrainer"):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(int(state.epoch or 0))


class ProcessSeedCallback(TrainerCallback):
    """Seeds every process but the first differently.

    Until training begins all have the same seed, so that the model is the same. A resumed run restores each state.
    """

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if args.process_index > 0:
            set_seed(int(np.random.SeedSequence([args.seed, args.process_index]).generate_state(1)[0]))


class LengthBucketTrainer(ResumableTrainer):
    """Trainer on clips of similar length per batch, with safe checkpoints.

    It trains on rows with a column `length`, whose order depends only on the seed and the epoch, or on a stream, of
    which each process reads its own part. Random draws of a step, such as noise, dropout or mixtures, differ between
    processes. Outputs of the model that are named in `logged` are logged beside the loss.

    Raises:
        NonFiniteLossError: A NaN or infinite loss or gradient, before the optimiser's step.
        RunCheckpointError: See [`ResumableTrainer`].
        AnotherRunError: See [`ResumableTrainer`].
        RunStoppedError: See [`ResumableTrainer`].
    """

    logged: tuple[str, ...] = ()
    sampler: Any = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(EpochCallback(self))
        self.add_callback(ProcessSeedCallback())
        self._batches: list[tuple[torch.Tensor, Mapping[str, Any]]] = []
        self._parts: dict[str, list[torch.Tensor]] = {}

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        if not isinstance(self.train_dataset, IterableDataset):
            return self._get_dataloader(
                VisitedRows(self.train_dataset),
                description="Training",
                batch_size=self._train_batch_size,
                sampler_fn=lambda _: self._get_train_sampler(),
                is_training=True,
            )
        loader: DataLoader = DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,  # type: ignore[arg-type]
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            # Its own generator: batches that a resumed run reads again must not change the random state of training.
            generator=torch.Generator(),
        )
        # As for a single process: the stream is this process's part already, and must not be split again.
        return prepare_data_loader(
            loader, args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        # One bucket feeds all processes, so that they have the same padding.
        size = self.args.train_batch_size * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.sampler = self.make_sampler(dataset, size, seed)
        return self.sampler

    def make_sampler(self, dataset: Any, batch_size: int, seed: int) -> LengthBucketSampler:
        """Makes the sampler of the training rows; subclasses may replace it."""
        return LengthBucketSampler(dataset["length"][:], batch_size, seed, getattr(self.args, "visit_frames", 0))

    def train(self, *args, **kwargs) -> Any:
        # Each step is checked here; the filter would hide a NaN, and synchronise with the device twice more.
        self.args.logging_nan_inf_filter = False
        self._batches.clear()
        return super().train(*args, **kwargs)

    # --- losses

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not self.logged:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**inputs)
        for name in self.logged:
            if outputs.get(name) is not None:
                self._parts.setdefault(name, []).append(outputs[name].detach())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Adds the means of the outputs in `logged`, over steps and processes, since the last log."""
        if "loss" in logs:
            for name, values in self._parts.items():
                mean = torch.stack(values).float().nanmean()
                logs[name] = self.accelerator.gather(mean[None]).nanmean().item()
            self._parts.clear()
        super().log(logs, *args, **kwargs)

    def training_step(self, model: Any, inputs: Any, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._batches.append((loss, inputs))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.check_finite(norm)
        return norm

    def check_finite(self, norm: torch.Tensor | float) -> None:
        """Checks the batches since the last optimiser step.

        Raises:
            NonFiniteLossError: Their loss or gradient is not finite; on all processes.
        """
        batches, self._batches = self._batches, []
        losses = torch.stack([loss for loss, _ in batches])
        finite = losses.isfinite().all()
        # float16's scalers expect gradients to overflow sometimes, and skip such steps themselves.
        if self.accelerator.scaler is None and not self.is_deepspeed_enabled:
            finite = finite & torch.as_tensor(norm, device=finite.device).isfinite()
        if self.accelerator.gather(finite[None]).all():
            return
        lost = [inputs for loss, inputs in batches if not loss.isfinite()]
        what = "The loss" if gather_object([True for _ in lost]) else "The gradient"
        # A broken clip also makes the losses of other processes non-finite, because keys are shared.
        ids = gather_object([clip for _, inputs in batches for clip in sample_ids(inputs, broken=True)])
        if not ids:
            named = lost if what == "The loss" else [inputs for _, inputs in batches]
            ids = gather_object([clip for inputs in named for clip in sample_ids(inputs)])
        raise NonFiniteLossError(what, self.state.global_step + 1, ids, self.last_checkpoint())


def sample_ids(inputs: Mapping[str, Any], broken: bool = False) -> list[int]:
    """`sample_id` of the clips of a batch, or of those `broken`, whose log-mels are not finite."""
    if "sample_id" not in inputs or (broken and "input_values" not in inputs):
        return []
    ids = inputs["sample_id"]
    return (ids[~inputs["input_values"].flatten(1).isfinite().all(dim=1)] if broken else ids).tolist()


__all__ = ["LengthBucketTrainer", "NonFiniteLossError"]
