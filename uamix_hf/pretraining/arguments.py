"""Arguments of pretraining: Audio-MAE's optimiser and schedule, scaled by the batch."""

from dataclasses import dataclass, field

from ..training.arguments import REFUSED, RunArguments

# Batch size of the base learning rate (docs/concepts/method.md, Recipes).
BASE_BATCH = 256


@dataclass
class PretrainingArguments(RunArguments):
    """transformers' training arguments with the defaults of Audio-MAE's pretraining, and its augmentation.

    AdamW, linear warm-up in 3 of 33 epochs, then half a cosine to 0, no gradient clipping. Other fields are
    transformers' own.

    Args:
        base_learning_rate: Peak learning rate for 256 clips per step.
        learning_rate: Peak learning rate; by default `base_learning_rate * clips per step / 256`, over all processes
            and accumulated batches.
        roll: Whether to circularly shift each clip by a random time.
        gain_alpha: Parameter a of the random gain, Beta(a, a) + 0.5; 0 turns it off.
        reconstructions: Clips whose reconstructions are plotted at each evaluation and checkpoint; 0 for none.
    """

    base_learning_rate: float = field(
        default=2e-4, metadata={"help": "Peak learning rate for 256 clips per step; scaled by the clips per step."}
    )
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Peak learning rate for any batch size; overrides base_learning_rate."}
    )
    roll: bool = field(default=True, metadata={"help": "Whether to circularly shift each clip by a random time."})
    gain_alpha: float = field(default=10.0, metadata={"help": "Random gain of Beta(a, a) + 0.5; 0 turns it off."})
    reconstructions: int = field(
        default=4,
        metadata={
            "help": "Clips whose reconstructions are plotted at each evaluation and checkpoint; 0 for none. Needs "
            "matplotlib."
        },
    )

    per_device_train_batch_size: int = field(default=32, metadata={"help": "Clips per step and process."})
    num_train_epochs: float = field(default=33.0, metadata={"help": "Epochs; max_steps overrides them."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay of matrices."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(
        default=3 / 33, metadata={"help": "Warm-up steps, or their fraction of all steps below 1."}
    )
    max_grad_norm: float = field(
        default=0.0, metadata={"help": "Norm that gradients are clipped to; 0 for no clipping."}
    )
    logging_steps: float = field(default=20, metadata={"help": "Steps between logs."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})

    # Skipping what was seen of a stream takes as long as reading it: see `pretraining_data`.
    refused = {name: reason for name, reason in REFUSED.items() if name != "ignore_data_skip"} | {
        "label_smoothing_factor": "there are no labels"
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate is None:
            self.learning_rate = self.base_learning_rate * self.clips_per_step / BASE_BATCH

    @property
    def clips_per_step(self) -> int:
        """Clips per optimiser step, over all processes and accumulated batches."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps


__all__ = ["PretrainingArguments"]
