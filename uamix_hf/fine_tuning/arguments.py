"""Arguments of supervised fine-tuning."""

from dataclasses import dataclass, field
from typing import Any

from ..training.arguments import ONLY_FINISHED, REFUSED, UPLOADED_WHOLE, LayerwiseArguments, shards_weights

SHARES = ("drop_path_rate", "patchout_ratio", "patchout_time_ratio", "patchout_mel_ratio")


@dataclass
class FineTuningArguments(LayerwiseArguments):
    """
    transformers' arguments, with the defaults of Audio-MAE's fine-tuning on small data (method.md 1.8) and its
    augmentation (method.md 1.1 and 1.7). What Audio-MAE gives in frames of a clip of 1024 is a share of the clip here,
    so that it fits clips of any length.

    `metric_for_best_model` is by default the accuracy, the mean average precision or the squared error, by the type of
    the problem. Where nothing is evaluated, there is no best model either.

    Raises:
        ValueError: a value out of range, or two that contradict each other.
    """

    layer_decay: float = field(
        default=0.75, metadata={"help": "Factor of the learning rate from each encoder layer to the one below."}
    )
    linear_probe: bool = field(
        default=False, metadata={"help": "Whether to freeze the whole encoder and train the linear layer alone."}
    )
    class_balanced: bool = field(default=False, metadata={"help": "Whether every class is drawn equally often."})
    drop_path_rate: float = field(default=0.1, metadata={"help": "Stochastic depth of the last encoder block."})
    patchout_ratio: float = field(default=0.0, metadata={"help": "Share of the tokens dropped while training."})
    patchout_time_ratio: float = field(default=0.2, metadata={"help": "Share of the time columns of tokens dropped."})
    patchout_mel_ratio: float = field(default=0.2, metadata={"help": "Share of the mel rows of tokens dropped."})
    time_mask_share: float = field(
        default=0.1875, metadata={"help": "SpecAugment: widest stretch that is masked, as a share of the clip."}
    )
    mel_mask_share: float = field(
        default=0.375, metadata={"help": "SpecAugment: widest band that is masked, as a share of the mel bins."}
    )
    mixup_probability: float = field(
        default=0.5, metadata={"help": "Share of the clips that are mixed with another of their batch, and its label."}
    )
    mixup_alpha: float = field(default=10.0, metadata={"help": "A clip's share in a mixture is of Beta(a, a)."})
    roll: bool = field(default=True, metadata={"help": "Whether to turn each clip round by a random time."})
    gain_alpha: float = field(default=10.0, metadata={"help": "Random gain of Beta(a, a) + 0.5; 0 turns it off."})

    per_device_train_batch_size: int = field(default=32, metadata={"help": "Clips per step and process."})
    num_train_epochs: float = field(default=50.0, metadata={"help": "Epochs; max_steps wins over them."})
    learning_rate: float = field(
        default=5e-4, metadata={"help": "Peak learning rate of the linear layer and of what follows the blocks."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of matrices."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second moment of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rates."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up, or their share below 1."})
    eval_strategy: str = field(
        default="auto",
        metadata={"help": "When to evaluate: no, steps or epoch; auto is when checkpoints are saved, else each epoch."},
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep beside the best one."})
    load_best_model_at_end: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Whether to end with the best checkpoint; unless said, where rows are evaluated and saved."},
    )
    metric_for_best_model: str | None = field(
        default="auto", metadata={"help": "Metric that tells the best checkpoint; auto goes by the problem's type."}
    )
    label_smoothing_factor: float = field(
        default=0.0, metadata={"help": "Of one class a clip: what is taken from it in training and shared by all."}
    )
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "All parameters are used."})

    refused = REFUSED | dict.fromkeys(UPLOADED_WHOLE, ONLY_FINISHED)

    def __post_init__(self) -> None:
        if self.eval_strategy == "auto":
            self.eval_strategy = self.save_strategy if self.save_strategy in ("steps", "epoch") else "epoch"
        if self.eval_strategy == self.save_strategy == "steps" and not self.eval_steps:
            self.eval_steps = self.save_steps
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = self.save_strategy != "no" and self.eval_strategy != "no"
        if self.load_best_model_at_end and self.save_strategy not in ("best", self.eval_strategy):
            raise ValueError(
                f"eval_strategy={self.eval_strategy!s} and save_strategy={self.save_strategy!s}: the best model is a "
                "checkpoint that was evaluated. Leave eval_strategy out, or add --load_best_model_at_end false."
            )
        super().__post_init__()
        if shards_weights(self):
            raise ValueError(
                "Fine-tuning with FSDP or DeepSpeed's ZeRO stage 3: each process evaluates recordings of its own, for "
                "which it needs whole weights. Use examples/accelerate/multi_gpu.yaml."
            )
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(f"label_smoothing_factor={self.label_smoothing_factor} is outside [0, 1).")
        for name in (*SHARES, "time_mask_share", "mel_mask_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is outside [0, 1).")
        if not 0 <= self.mixup_probability <= 1:
            raise ValueError(f"mixup_probability={self.mixup_probability} is outside [0, 1].")
        if self.mixup_alpha <= 0:
            raise ValueError(f"mixup_alpha={self.mixup_alpha} is not above 0; mixup_probability=0 turns mixing off.")
        if self.linear_probe and self.freeze_blocks:
            raise ValueError("linear_probe freezes the whole encoder: leave freeze_blocks out.")

    def model_settings(self) -> dict[str, Any]:
        """Fields of the model's configuration that these arguments decide; a frozen encoder sees whole clips."""
        return {name: 0.0 if self.linear_probe else getattr(self, name) for name in SHARES}


__all__ = ["FineTuningArguments"]
