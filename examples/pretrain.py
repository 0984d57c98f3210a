"""Pretrain an Audio-MAE on a folder of sound, or go on from a checkpoint:

accelerate launch examples/pretrain.py --train_dir recordings --output_dir audio-mae-tiny --preset tiny
"""

import json
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoFeatureExtractor, HfArgumentParser, TrainingArguments, set_seed

from uamix_hf import AudioMAEConfig, AudioMAEFeatureExtractor, AudioMAEForPreTraining
from uamix_hf.data import DataArguments, LogMelCollator, compute_norm_stats, prepare
from uamix_hf.trainer import LengthBucketTrainer


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Checkpoint to go on from."})
    preset: str = field(default="tiny", metadata={"help": "Size from scratch: tiny, small, base or large."})
    config_overrides: list[str] = field(
        default_factory=list, metadata={"help": "Fields of the preset to change: NAME=VALUE, values as in JSON."}
    )


@dataclass
class PretrainingArguments(TrainingArguments):
    """AdamW and schedule of Audio-MAE (method.md 1.8), with a learning rate for small data."""

    per_device_train_batch_size: int = 32
    num_train_epochs: float = 100.0
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    adam_beta2: float = 0.95
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.1
    roll: bool = field(default=True, metadata={"help": "Whether to turn each clip round by a random time."})
    gain_alpha: float = field(default=10.0, metadata={"help": "Random gain of Beta(a, a) + 0.5; 0 turns it off."})
    logging_steps: float = 20
    save_strategy: str = "epoch"
    save_total_limit: int | None = 1
    remove_unused_columns: bool = False


def overrides(args: ModelArguments) -> dict[str, Any]:
    """`num_hidden_layers=6` and `decoder_type="local"` as fields of a configuration."""
    return {name: json.loads(value) for name, value in (item.split("=", 1) for item in args.config_overrides)}


def main() -> None:
    parser = HfArgumentParser((ModelArguments, DataArguments, PretrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    if model_args.model_name_or_path:
        extractor = AutoFeatureExtractor.from_pretrained(model_args.model_name_or_path)
        model = AudioMAEForPreTraining.from_pretrained(model_args.model_name_or_path)
    else:
        extractor = AudioMAEFeatureExtractor()
        model = AudioMAEForPreTraining(AudioMAEConfig.preset(model_args.preset, **overrides(model_args)))
    with training_args.main_process_first(desc="log-mels"):
        data = prepare(data_args, extractor)
    if not model_args.model_name_or_path:
        mean, std = compute_norm_stats(data.dataset, extractor)
        extractor = AudioMAEFeatureExtractor(mean=mean, std=std, max_length=model.config.max_length)

    trainer = LengthBucketTrainer(
        model=model,
        args=training_args,
        train_dataset=data.dataset,
        data_collator=LogMelCollator(
            extractor,
            model.config.max_length,
            normalize=True,
            roll=training_args.roll,
            gain_alpha=training_args.gain_alpha,
        ),
        processing_class=extractor,
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    data.report_skipped()


if __name__ == "__main__":
    main()
