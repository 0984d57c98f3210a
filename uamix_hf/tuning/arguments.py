"""Arguments of the two stages of tuning."""

from dataclasses import dataclass, field

from ..training.arguments import ONLY_FINISHED, REFUSED, UPLOADED_WHOLE, LayerwiseArguments, shards_weights

EVALUATION = (
    "do_eval", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
)  # fmt: skip
NO_EVALUATION = "tuning evaluates nothing; knn_steps and label_column check neighbours"


@dataclass
class UaMixTrainingArguments(LayerwiseArguments):
    """
    transformers' arguments, with the defaults of contrastive tuning (method.md 2.6 and 3.4), and those of its two
    stages. The ordinary ones, such as `max_steps` and `num_train_epochs`, are the second stage's.

    Raises:
        ValueError: a value out of range, an argument without effect, gradient accumulation, or weights that are sharded
            over processes.
    """

    head_steps: int = field(
        default=-1, metadata={"help": "Steps of stage 1 (heads on the frozen encoder); wins over epochs."}
    )
    head_epochs: float = field(default=5.0, metadata={"help": "Epochs of stage 1; 0 leaves it out."})
    head_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak learning rate of the heads, in both stages."}
    )
    head_weight_decay: float = field(default=1e-5, metadata={"help": "Weight decay of the heads."})
    visit_frames: int = field(
        default=0,
        metadata={"help": "A clip comes once an epoch for each so many frames (10 ms) that it has; 0: once for all."},
    )
    encoder_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Views (two of each clip, and its mixtures) that pass the encoder at once, which bounds memory. "
            "None: all. Gradients are those of the whole batch, at the price of a second forward pass."
        },
    )
    knn_steps: int = field(
        default=0, metadata={"help": "Steps between kNN checks where labels are known; 0: at the start and end alone."}
    )

    per_device_train_batch_size: int = field(default=64, metadata={"help": "Clips per step and process."})
    num_train_epochs: float = field(default=60.0, metadata={"help": "Epochs of stage 2."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of the encoder."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of the encoder's matrices."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second moment of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rates."})
    warmup_steps: float = field(default=0.2, metadata={"help": "Steps of warm-up, or their share below 1."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "A short batch has fewer negatives."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "All parameters are used."})
    # Every process stores the same gathered keys; sending rank 0's support set each step would be waste.
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "Support sets agree already."})

    refused = (
        REFUSED
        | dict.fromkeys(UPLOADED_WHOLE, ONLY_FINISHED)
        | dict.fromkeys(EVALUATION, NO_EVALUATION)
        | {
            "label_smoothing_factor": "labels are never learnt from",
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.save_strategy == "best":
            raise ValueError("save_strategy=best: tuning evaluates nothing, so no checkpoint is the best.")
        if shards_weights(self):
            raise ValueError(
                "Tuning with FSDP or DeepSpeed's ZeRO stage 3: one process could neither check neighbours nor save the "
                "encoder, since each would hold a part of the weights. Use examples/accelerate/multi_gpu.yaml; "
                "encoder_batch_size saves the memory of activations, which sharding leaves as they are."
            )
        if self.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps}: clips are contrasted within a "
                "batch alone, so accumulation would not enlarge it: negatives stay as few as in a small batch. "
                "Raise per_device_train_batch_size and set encoder_batch_size to what fits in memory: gradients are "
                "those of the whole batch. Or use more processes, whose keys are shared."
            )
        if self.encoder_batch_size is not None and self.encoder_batch_size < 1:
            raise ValueError(f"encoder_batch_size={self.encoder_batch_size}: at least 1 view, or None for all of them.")

    @property
    def has_head_stage(self) -> bool:
        return self.head_steps > 0 or (self.head_steps < 0 and self.head_epochs > 0)


__all__ = ["UaMixTrainingArguments"]
