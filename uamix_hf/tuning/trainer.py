"""The two stages of uaMix tuning, each by a transformers Trainer."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback

from ..data import FeatureCollator, LengthBucketSampler
from ..models.front_ends import FrontEnd
from ..training.augmentations import resolve_token_drop
from ..training.checkpoints import checkpoint_to_resume, last_complete_checkpoint, prepare_output_dir
from ..training.interruption import RunStoppedError
from ..training.parameter_groups import layer_rates, parameter_groups
from ..training.run_identity import MAY_CHANGE_WITH_WARNING, config_identity
from ..training.trainer import LengthBucketTrainer
from .arguments import UaMixTrainingArguments
from .callbacks import FewUpdatesCallback, KNNCallback, TargetUpdateCallback
from .configuration_uamix import METHOD_FIELDS
from .guard_clips import make_guard
from .guards import GuardCallback, read_numbers
from .modeling_uamix import Stage, UaMixForContrastiveTuning

logger = logging.getLogger(__name__)


class StageTrainer(LengthBucketTrainer):
    """transformers' Trainer for one stage of tuning; [`UaMixTrainer`] runs both, with all that surrounds them.

    Batches are grouped by length, the optimiser has one group per depth of the encoder and one for the heads, the parts
    of the loss are logged, and the target projector follows each optimiser step. Checkpoints hold the neighbour queue
    and the target projector, which are buffers and parameters of the model.

    Args:
        model: From `UaMixForContrastiveTuning.from_encoder`.
        args: Arguments of both stages; the method's fields among them must agree with the model.
        train_dataset: Log-mels from [`cached_features`], with the column `length`.
        feature_extractor: Its patch size pads the batches; saved with each checkpoint.
        stage: `"head"` trains into `output_dir/head`, `"tune"` into `output_dir`.
        callbacks: Further callbacks of transformers' Trainer, and the [`GuardCallback`] of `args.guard`, if any.

    Raises:
        ValueError: fewer than two clips per process, or in a batch; more layers frozen than there are; arguments that
            contradict the model; or guards that are asked for and not among the callbacks.
    """

    args: UaMixTrainingArguments
    model: UaMixForContrastiveTuning
    logged = ("loss_clean", "loss_mixed", "loss_decorrelation", "mix_lambda", "neighbour_purity", "embedding_std")

    def __init__(
        self,
        model: UaMixForContrastiveTuning,
        args: UaMixTrainingArguments,
        train_dataset: Dataset,
        feature_extractor: FrontEnd,
        stage: Stage = "tune",
        callbacks: Sequence[TrainerCallback] = (),
    ):
        args.check_agreement(model.config, len(train_dataset))  # type: ignore[arg-type]
        args = fit_batch(args, len(train_dataset))  # type: ignore[arg-type]
        if stage == "head":
            args = dataclasses.replace(
                args,
                output_dir=os.path.join(str(args.output_dir), "head"),
                max_steps=args.head_steps,
                num_train_epochs=args.head_epochs,
            )
        self.stage = stage
        self.guard = next((callback for callback in callbacks if isinstance(callback, GuardCallback)), None)
        if self.guard is None and args.guard != "off":
            advice = f"guard={args.guard}: add a GuardCallback to callbacks, as train_stages does."
            if args.is_given("guard"):
                raise ValueError(advice)
            logger.warning("The recipe's guards are left out. %s", advice)
        if stage == "head":
            self.may_change_with_warning = MAY_CHANGE_WITH_WARNING | {"head_steps", "head_epochs"}
        # Views crop further, so that a long recording gives two different stretches of it.
        collator = FeatureCollator(feature_extractor, 2 * model.max_frames, normalize=False, seed=args.seed)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=collator,
            processing_class=feature_extractor,
            callbacks=[TargetUpdateCallback(), FewUpdatesCallback(), *callbacks],
        )
        # Last, and what may fail first: after an error the model is as it was.
        token_drop = resolve_token_drop(model.config, train_dataset, feature_extractor)
        model.set_stage(stage, args.frozen_blocks(len(model.adapter.layers)))
        model.encoder_batch_size = args.encoder_batch_size
        model.config.token_drop = token_drop
        queue = model.neighbour_queue
        if len(queue) > len(train_dataset):  # type: ignore[arg-type]
            # More keys than clips would hold the same clip several times, which no neighbour search profits from.
            model.config.queue_size = len(train_dataset)  # type: ignore[arg-type]
            queue.allocate(model.config.queue_size, queue.keys.shape[1], queue.keys.device)
        for callback in callbacks:
            if isinstance(callback, (KNNCallback, GuardCallback)):
                callback.log = self.log

    def make_sampler(self, dataset: Any, batch_size: int, seed: int) -> LengthBucketSampler:
        sampler = super().make_sampler(dataset, batch_size, seed)
        # With several processes, accelerate fills the last batch up.
        if not self.args.dataloader_drop_last and self.args.world_size == 1 and len(sampler) % batch_size == 1:
            raise ValueError(
                f"dataloader_drop_last=False: of {len(sampler)} clips an epoch in batches of {batch_size}, the last "
                "would be a batch of one clip, which has nothing to contrast it with. Leave --dataloader_drop_last "
                "at true, or change --per_device_train_batch_size."
            )
        return sampler

    def identity(self) -> dict[str, Any]:
        adapters = getattr(self.model.encoder, "peft_config", {})
        settings = {name: config_identity(config) for name, config in adapters.items()}
        found = super().identity()
        # The model's configuration has them, too.
        arguments = {name: value for name, value in found["arguments"].items() if name not in METHOD_FIELDS}
        return found | {"arguments": arguments, "stage": self.stage, "adapters": settings}

    def base_config(self) -> Any:
        return self.model.adapter.base.config

    def last_checkpoint(self) -> str | None:
        return super().last_checkpoint() or last_complete_checkpoint(Path(str(self.args.output_dir)) / "head")

    # --- guards

    def train(self, *args, **kwargs) -> Any:
        output = super().train(*args, **kwargs)
        if self.guard is not None and self.stage == "tune":
            self.guard.finish(self.model, self.state)
        return output

    def is_over(self, checkpoint: str, step: int, steps: int) -> bool:
        return super().is_over(checkpoint, step, steps) or (
            self.guard is not None and read_numbers(checkpoint)["stopped"]
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.guard is not None:
            self.guard.load(resume_from_checkpoint, self.model)

    def _save_rng_state(self, output_dir: str) -> None:
        if self.guard is not None and self.args.should_save:  # before what marks the checkpoint as complete
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            self.guard.save(output_dir, self.model, self.state)
        super()._save_rng_state(output_dir)

    # --- optimiser

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a group for each learning rate and weight decay."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(self.parameter_groups(), **options)
        return self.optimizer

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups that hold every trainable parameter once.

        Encoder parameters have the learning rate `learning_rate * layer_decay ** (layers + 1 - depth)`, heads and
        learnt poolings, which are not pretrained either, `head_learning_rate`; biases, norms, tokens and positions have
        no weight decay.
        """
        args, adapter = self.args, self.model.adapter
        rates = layer_rates(adapter.layer_ids(), len(adapter.layers) + 1, args.learning_rate, args.layer_decay)
        for name in rates:
            if any(part in adapter.learnt_pooling() for part in name.split(".")):
                rates[name] = args.head_learning_rate
        return parameter_groups(
            self.model, "encoder.", rates, args.weight_decay, args.head_learning_rate, args.head_weight_decay
        )


def fit_batch(args: UaMixTrainingArguments, clips: int) -> UaMixTrainingArguments:
    """Arguments whose batch is not larger than the data, so that there is at least one whole batch.

    Args:
        args: Arguments as given.
        clips: Number of training clips.

    Raises:
        ValueError: fewer than two clips per process.
    """
    if args.per_device_train_batch_size < 2:
        raise ValueError("per_device_train_batch_size=1: a batch of one clip has nothing to contrast it with.")
    most = clips // max(1, args.world_size)
    if most < 2:
        raise ValueError(f"{clips} clips for {args.world_size} processes: contrasting needs at least 2 for each.")
    if args.per_device_train_batch_size <= most:
        return args
    logger.warning("Only %d clips: the batch of each process shrinks from %d to %d.", clips,
                   args.per_device_train_batch_size, most)  # fmt: skip
    return dataclasses.replace(args, per_device_train_batch_size=most)


def train_stages(
    model: UaMixForContrastiveTuning,
    args: UaMixTrainingArguments,
    train_dataset: Dataset,
    feature_extractor: FrontEnd,
    callbacks: Sequence[TrainerCallback] = (),
    groups: np.ndarray | None = None,
) -> StageTrainer:
    """Runs both stages of tuning, one after the other; `model` holds the result.

    Where `args.guard` asks for guards, some of the clips are held out for them.

    Args:
        model: From `UaMixForContrastiveTuning.from_encoder`.
        args: Arguments of both stages. `resume_from_checkpoint` is a checkpoint of either stage, or `"true"` for the
            last complete one.
        train_dataset: Log-mels from [`cached_features`].
        feature_extractor: Its patch size pads the batches; saved with each checkpoint.
        callbacks: Further callbacks of transformers' Trainer, in both stages.
        groups: Group of each clip (clips,), such as its speaker; the guards hold out whole groups.

    Returns:
        The trainer of the second stage, with its log in `state.log_history`.

    Raises:
        RunStoppedError: a callback stopped the first stage before its end.
        ValueError: see [`StageTrainer`].
    """
    train_dataset, guard = make_guard(model, args, train_dataset, feature_extractor, groups)
    callbacks = [*callbacks, *([] if guard is None else [guard])]
    folder, overwrite = Path(str(args.output_dir)), args.overwrite_output_dir
    resume = checkpoint_to_resume(args.resume_from_checkpoint, [folder, folder / "head"], overwrite)
    # The run's own folder may be called head, too.
    parent = Path(resume).resolve().parent if resume else None
    in_head = parent is not None and parent.name == "head" and parent != folder.resolve()
    if not resume or in_head:
        with args.main_process_first(desc="earlier checkpoints"):
            for stage in [folder] if in_head else [folder, folder / "head"]:  # now, not after hours of stage 1
                prepare_output_dir(stage, None, overwrite)
    if args.has_head_stage and (not resume or in_head):
        head = StageTrainer(model, args, train_dataset, feature_extractor, "head", callbacks)
        output = head.train(resume_from_checkpoint=resume or False)
        if output is not None and output.global_step < head.state.max_steps:
            raise RunStoppedError(
                f"A callback stopped stage 1 after step {output.global_step} of {head.state.max_steps}, so stage 2 is "
                f"not begun. Let stage 1 have so many steps (head_steps), or go on from {head.last_checkpoint()}."
            )
        resume = None
    trainer = StageTrainer(model, args, train_dataset, feature_extractor, "tune", callbacks)
    trainer.train(resume_from_checkpoint=resume or False)
    return trainer


__all__ = ["StageTrainer", "train_stages"]
