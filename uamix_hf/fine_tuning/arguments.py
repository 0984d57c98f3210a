"""Arguments of supervised fine-tuning."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from transformers import PreTrainedModel

from ..training.arguments import ONLY_FINISHED, REFUSED, UPLOADED_WHOLE, LayerwiseArguments, shards_weights
from .models import has_setting

# Fields of the configuration that act in training, which Audio-MAE has and most other encoders do not.
MODEL_RATES = ("drop_path_rate", "patchout_ratio", "patchout_time_ratio", "patchout_mel_ratio")

HeadInit = Literal["logistic", "centroid", "random", "keep"]


@dataclass
class FineTuningArguments(LayerwiseArguments):
    """transformers' training arguments with the defaults of Audio-MAE's fine-tuning on small data, and augmentation.

    Audio-MAE's masks in frames of a clip of 1024 frames are fractions of the clip here, so that they fit clips of any
    length (docs/concepts/method.md, Fine-tuning). The fields without a description here are transformers' own.

    `metric_for_best_model` is by default the accuracy, the mean average precision or the mean squared error, by the
    problem type. Where nothing is evaluated, there is no best model either.

    Args:
        layer_decay: Factor of the learning rate from each encoder layer to the one below.
        linear_probe: Whether to freeze the whole encoder and train the linear layer only.
        head_init: How the linear layer starts. `"logistic"`: as the logistic regression of the training clips'
            embeddings by the untrained encoder. `"centroid"`: as the distances from their class means. `"random"`:
            near zero. `"keep"`: as it comes with the model. By default `"logistic"` for a layer that is new
            (`"random"` in regression), and else `"keep"`.
        logistic_c: C of that logistic regression; less means more regularisation.
        class_balanced: Whether all classes are sampled equally often.
        drop_path_rate: Stochastic depth rate of the last encoder layer; it grows linearly with depth.
        patchout_ratio: Fraction of all patch tokens that is dropped in training.
        patchout_time_ratio: Fraction of the time columns of tokens that is dropped in training.
        patchout_mel_ratio: Fraction of the frequency bands of tokens that is dropped in training.
        time_mask_fraction: SpecAugment: widest time mask, as a fraction of the clip.
        mel_mask_fraction: SpecAugment: widest frequency mask, as a fraction of the mel bins.
        mixup_probability: Fraction of the clips that are mixed with another one of their batch.
        mixup_alpha: Parameter a of mixup; the mixing weight is drawn from Beta(a, a).
        roll: Whether to circularly shift each clip by a random time.
        gain_alpha: Parameter a of the random gain, Beta(a, a) + 0.5; 0 turns it off.

    Raises:
        ValueError: a value out of range, or two that contradict each other.
    """

    layer_decay: float = field(
        default=0.75, metadata={"help": "Factor of the learning rate from each encoder layer to the one below."}
    )
    linear_probe: bool = field(
        default=False, metadata={"help": "Whether to freeze the whole encoder and train the linear layer only."}
    )
    head_init: HeadInit | None = field(
        default=None,
        metadata={
            "help": "How the linear layer starts: as the logistic or the nearest-centroid classifier of the training "
            "clips' frozen embeddings, random, or kept as it comes with the model; if unset, logistic for a new layer "
            "of classes, random for numbers, and else kept."
        },
    )
    logistic_c: float = field(
        default=10.0, metadata={"help": "C of the logistic regression; less means more regularisation."}
    )
    class_balanced: bool = field(default=False, metadata={"help": "Whether all classes are sampled equally often."})
    drop_path_rate: float = field(default=0.1, metadata={"help": "Stochastic depth rate of the last encoder layer."})
    patchout_ratio: float = field(default=0.0, metadata={"help": "Fraction of the patch tokens dropped in training."})
    patchout_time_ratio: float = field(
        default=0.2, metadata={"help": "Fraction of the time columns of tokens dropped."}
    )
    patchout_mel_ratio: float = field(
        default=0.2, metadata={"help": "Fraction of the frequency bands of tokens dropped."}
    )
    time_mask_fraction: float = field(
        default=0.1875, metadata={"help": "SpecAugment: widest time mask, as a fraction of the clip."}
    )
    mel_mask_fraction: float = field(
        default=0.375, metadata={"help": "SpecAugment: widest frequency mask, as a fraction of the mel bins."}
    )
    mixup_probability: float = field(
        default=0.5, metadata={"help": "Fraction of the clips that are mixed with another one of their batch."}
    )
    mixup_alpha: float = field(default=10.0, metadata={"help": "Mixing weight of mixup, drawn from Beta(a, a)."})
    roll: bool = field(default=True, metadata={"help": "Whether to circularly shift each clip by a random time."})
    gain_alpha: float = field(default=10.0, metadata={"help": "Random gain of Beta(a, a) + 0.5; 0 turns it off."})

    per_device_train_batch_size: int = field(default=32, metadata={"help": "Clips per step and process."})
    # From a classifier of frozen embeddings: 50 lost 2 points with 5 labels per class (docs/fine_tuning.md).
    num_train_epochs: float = field(default=10.0, metadata={"help": "Epochs; max_steps overrides them."})
    learning_rate: float = field(
        default=1.25e-4, metadata={"help": "Peak learning rate of the linear layer and of the last norm."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of matrices."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Warm-up steps, or their fraction of all steps below 1."}
    )
    eval_strategy: str = field(
        default="auto",
        metadata={"help": "When to evaluate: no, steps or epoch; auto is when checkpoints are saved, else each epoch."},
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep beside the best one."})
    load_best_model_at_end: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Whether to end with the best checkpoint; by default where there are evaluations and checkpoints."
        },
    )
    metric_for_best_model: str | None = field(
        default="auto", metadata={"help": "Metric that chooses the best checkpoint; auto goes by the problem type."}
    )
    label_smoothing_factor: float = field(default=0.0, metadata={"help": "Label smoothing, for one class per clip."})
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
        for name in (*MODEL_RATES, "time_mask_fraction", "mel_mask_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is outside [0, 1).")
        if not 0 <= self.mixup_probability <= 1:
            raise ValueError(f"mixup_probability={self.mixup_probability} is outside [0, 1].")
        if self.mixup_alpha <= 0:
            raise ValueError(f"mixup_alpha={self.mixup_alpha} is not above 0; mixup_probability=0 turns mixing off.")
        if self.head_init not in (None, *get_args(HeadInit)):
            raise ValueError(f"head_init={self.head_init!r}: there are {', '.join(get_args(HeadInit))}.")
        if self.logistic_c <= 0:
            raise ValueError(f"logistic_c={self.logistic_c} is not above 0.")
        if self.is_given("logistic_c") and self.head_init not in (None, "logistic"):
            raise ValueError(f"logistic_c={self.logistic_c}: it goes with head_init=logistic, not {self.head_init}.")
        if self.linear_probe and self.freeze_blocks:
            raise ValueError("linear_probe freezes the whole encoder: leave freeze_blocks out.")

    def model_settings(self, encoder: PreTrainedModel) -> dict[str, Any]:
        """Fields of a classifier's configuration that these arguments set; without drop path and patchout for a probe.

        Args:
            encoder: The encoder that [`make_classifier`] is given.

        Raises:
            ValueError: A rate that is given, and that the encoder's classifier does not have.
        """
        names = [name for name in MODEL_RATES if has_setting(encoder, name)]
        for name in MODEL_RATES:
            if name not in names and self.is_given(name) and getattr(self, name) > 0:
                raise ValueError(
                    f"{name}={getattr(self, name)}: a classifier on {type(encoder).__name__} has none. Leave it out."
                )
        return {name: 0.0 if self.linear_probe else getattr(self, name) for name in names}


__all__ = ["FineTuningArguments", "HeadInit"]
