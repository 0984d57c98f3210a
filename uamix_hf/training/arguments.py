"""Training arguments inherited from transformers: each has an effect, or is refused by name."""

import math
import os
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import Enum
from typing import Any, ClassVar, Self

from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_pt_utils import AcceleratorConfig

# Arguments that are refused unless they have their default, with the reason.
REFUSED: dict[str, str] = {
    "accelerator_config": "the samplers distribute the batches among processes themselves",
    "auto_find_batch_size": "the batch size would differ from the one that is given; lower per_device_train_batch_size",
    "average_tokens_across_devices": "losses are means over clips, not over tokens",
    "batch_eval_metrics": "recordings are evaluated together",
    "dataloader_in_order": "the order of the batches would differ from run to run",
    "dataloader_persistent_workers": "a resumed run would not be equal to one that never stopped",
    "debug": "transformers' detectors do not take the models' masks, or are for TPUs",
    "do_predict": "test rows are predicted whenever there are any",
    "do_train": "it always trains; leave the flag out",
    "eval_accumulation_steps": "predictions are kept on the CPU anyway",
    "eval_do_concat_batches": "the predictions of all batches are needed together",
    "eval_use_gather_object": "predictions are gathered differently",
    "bf16_full_eval": "evaluation is in the precision of the weights; bf16 trains in bfloat16",
    "fp16_full_eval": "evaluation is in the precision of the weights; fp16 trains in float16",
    "ignore_data_skip": "a resumed run would see clips again, and not be equal to one that never stopped",
    "include_for_metrics": "metrics are computed from predictions and labels only",
    "include_num_input_tokens_seen": "log-mel values would be counted, not tokens",
    "label_names": "labels are in the column labels",
    "length_column_name": "lengths are in the column length",
    "liger_kernel_config": "Liger has no kernels for these models",
    "logging_nan_inf_filter": "training stops at a loss that is not finite",
    "neftune_noise_alpha": "the models have no word embeddings to add noise to",
    "optim_target_modules": "low-rank optimisers would ignore the learning rates by depth",
    "parallelism_config": "the models are not split across devices",
    "prediction_loss_only": "metrics are measured at each evaluation",
    "remove_unused_columns": "the collator needs columns that the model does not read",
    "train_sampling_strategy": "batches always have clips of similar length, in a shuffled order",
    "use_cache": "the models have no cache",
    "use_liger_kernel": "Liger has no kernels for these models",
}
UPLOADED_WHOLE = ("hub_strategy", "hub_always_push", "hub_revision")
ONLY_FINISHED = "the finished model is uploaded, once and to the main branch"

# Lower is better for these metrics, higher for all others.
LOWER_IS_BETTER = frozenset({"loss", "loss_reconstruction", "loss_contrastive", "mse", "mae"})


def choose_backend(args: TrainingArguments) -> None:
    """Chooses gloo for processes without a GPU, as the default, nccl, needs one. Called before `__post_init__`."""
    if args.use_cpu and args.ddp_backend is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        args.ddp_backend = "gloo"


@dataclass
class RunArguments(TrainingArguments):
    """Arguments of every kind of training: those of transformers, each of which works or is refused, and a few more.

    `greater_is_better` follows from `metric_for_best_model`.

    Raises:
        ValueError: An argument that would have no effect, or two that contradict each other.
    """

    refused: ClassVar[dict[str, str]] = REFUSED

    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Whether to remove the checkpoints of an earlier run from the output folder: without this, a run "
            "does not start where there are any."
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Refused: the collator reads the columns."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Refused: training stops at a loss that is not finite."}
    )

    def __post_init__(self) -> None:
        choose_backend(self)
        self.check_inherited()
        metric, greater = self.metric_for_best_model, self.greater_is_better
        if metric not in (None, "auto"):
            self.greater_is_better = direction(str(metric), greater)
        super().__post_init__()
        if self.enable_jit_checkpoint and self.save_only_model:
            raise ValueError("enable_jit_checkpoint: a checkpoint of save_only_model cannot be resumed from. Give one.")
        if metric == "auto":  # transformers takes it for a name
            self.greater_is_better = greater
        elif self.greater_is_better is not None and self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
            mode = "max" if self.greater_is_better else "min"
            kwargs: Any = self.lr_scheduler_kwargs or {}
            if kwargs.get("mode", mode) != mode:
                raise ValueError(f"lr_scheduler_kwargs: of {self.metric_for_best_model}, the mode is {mode}.")
            self.lr_scheduler_kwargs = kwargs | {"mode": mode}

    def check_inherited(self) -> None:
        """Checks the arguments inherited from transformers.

        Raises:
            ValueError: Arguments without effect, or numbers out of range.
        """
        idle = {name: reason for name, reason, used in self.conditions() if self.is_given(name) and not used}
        idle |= {name: reason for name, reason in self.refused.items() if self.is_given(name)}
        if idle:
            reasons = "; ".join(f"{name}={getattr(self, name)!r}: {reason}" for name, reason in idle.items())
            raise ValueError(f"Arguments that would have no effect here: {reasons}.")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is needed.")
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(f"max_steps={self.max_steps}: a number of steps, or -1 to count epochs.")

    def is_given(self, name: str) -> bool:
        """Whether an argument differs from its default, in any form that transformers gives it."""
        entry, value = type(self).__dataclass_fields__[name], getattr(self, name)
        default = entry.default if entry.default is not MISSING else entry.default_factory()  # type: ignore[operator]
        same = {"accelerator_config": AcceleratorConfig(), "include_num_input_tokens_seen": False, "debug": []}
        return value is not None and value != default and not (name in same and value == same[name])

    def conditions(self) -> Iterable[tuple[str, str, bool]]:
        """Yields the name of an argument, why it may have no effect, and whether it has one beside the others."""
        trackers = [] if self.report_to in (None, "none", ["none"]) else self.report_to
        evaluates, trackio = self.eval_strategy != "no", "trackio" in trackers or "all" in trackers
        fills_eval_steps = self.eval_strategy == "steps" and not self.eval_steps
        pushes = "it goes with push_to_hub"
        yield "eval_steps", "it goes with eval_strategy=steps", self.eval_strategy == "steps"
        yield "eval_delay", "nothing is evaluated: set eval_strategy", evaluates
        yield "eval_on_start", "nothing is evaluated: set eval_strategy", evaluates
        yield "do_eval", "nothing is evaluated: set eval_strategy", evaluates
        yield "metric_for_best_model", "nothing is evaluated: set eval_strategy", evaluates
        yield "greater_is_better", "it goes with metric_for_best_model", self.metric_for_best_model is not None
        yield "save_steps", "it goes with save_strategy=steps", self.save_strategy == "steps"
        yield (
            "logging_steps",
            "it goes with logging_strategy=steps",
            self.logging_strategy == "steps" or fills_eval_steps,
        )
        yield "run_name", "it goes with report_to", bool(trackers)
        for name in ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"):
            yield name, "it goes with report_to=trackio", trackio
        yield "hub_private_repo", pushes, self.push_to_hub or trackio
        for name in ("hub_model_id", "hub_token", "hub_strategy", "hub_always_push", "hub_revision"):
            yield name, pushes, self.push_to_hub
        yield "fsdp_config", "it goes with fsdp", bool(self.fsdp)
        yield "activation_checkpointing_kwargs", "it goes with activation_checkpointing", self.checkpoints_activations
        yield "gradient_checkpointing_kwargs", "it goes with activation_checkpointing", self.checkpoints_activations

    @property
    def checkpoints_activations(self) -> bool:
        """Whether activation checkpointing is on, by its new or old name."""
        return bool(self.activation_checkpointing or self.gradient_checkpointing)

    def own_settings(self) -> dict[str, Any]:
        """Fields that a subclass added, or gave another default, for one kind of training, with their values."""
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, RunArguments) and kind is not RunArguments]
        names = sorted(
            {entry.name for entry in fields(self)} & {name for kind in kinds for name in kind.__annotations__}
        )
        values = {name: getattr(self, name) for name in names}
        return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}

    def without_hub(self) -> Self:
        """Copy of the arguments without upload, for a run whose finished model is uploaded by [`push_folder`]."""
        return replace(self, push_to_hub=False, hub_model_id=None, hub_private_repo=None, hub_token=None)


@dataclass
class LayerwiseArguments(RunArguments):
    """Arguments of training a pretrained encoder: lower layers are frozen, or have smaller learning rates.

    Raises:
        ValueError: A value out of range.
    """

    layer_decay: float = field(
        default=1.0, metadata={"help": "Factor of the learning rate from each encoder layer to the one below."}
    )
    freeze_blocks: float = field(
        default=0.0,
        metadata={
            "help": "Lower encoder layers that stay frozen, with all that comes before them: a number, or a fraction "
            "below 1."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay={self.layer_decay} is outside (0, 1].")
        if self.freeze_blocks < 0 or (self.freeze_blocks >= 1 and self.freeze_blocks % 1):
            raise ValueError(
                f"freeze_blocks={self.freeze_blocks} is neither a fraction below 1 nor a number of layers."
            )

    def frozen_blocks(self, layers: int) -> int:
        """Number of frozen layers of an encoder with this number of layers."""
        return math.floor(self.freeze_blocks * layers) if self.freeze_blocks < 1 else int(self.freeze_blocks)


def direction(metric: str, given: bool | None = None) -> bool:
    """Whether a higher value of a metric is better.

    Args:
        metric: Its name, with or without `eval_`.
        given: Value of `greater_is_better`, if given.

    Raises:
        ValueError: `given` contradicts the metric.
    """
    greater = metric.removeprefix("eval_") not in LOWER_IS_BETTER
    if given is not None and given != greater:
        raise ValueError(f"greater_is_better={given}: {'higher' if greater else 'lower'} is better for {metric}.")
    return greater


def check_metric(metric: str, measured: Iterable[str]) -> None:
    """Checks `metric_for_best_model`.

    Args:
        metric: Its value, with or without `eval_`.
        measured: Names of the metrics that are measured, without `eval_`.

    Raises:
        ValueError: It is none of them.
    """
    names = list(measured)
    if metric.removeprefix("eval_") not in names:
        raise ValueError(f"metric_for_best_model={metric!r} is not measured: there are {', '.join(names)}.")


def shards_weights(args: TrainingArguments) -> bool:
    """Whether the weights are sharded: each process holds a part of them."""
    launched_with_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return bool(args.fsdp or launched_with_fsdp or is_deepspeed_zero3_enabled())


__all__ = [
    "ONLY_FINISHED",
    "REFUSED",
    "UPLOADED_WHOLE",
    "LayerwiseArguments",
    "RunArguments",
    "check_metric",
    "choose_backend",
    "direction",
    "shards_weights",
]
