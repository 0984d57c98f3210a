"""Pretrain an Audio-MAE on unlabelled audio, or continue from a checkpoint:

accelerate launch examples/pretrain.py --train_dir recordings --output_dir audio-mae-tiny --preset tiny

Audio that is larger than the disk is streamed, from folders or from datasets of the Hub:

accelerate launch examples/pretrain.py --dataset_name one/dataset+another/one --streaming --max_steps 100000 \
    --output_dir audio-mae-base --preset base

See docs/pretraining.md.
"""

from transformers import HfArgumentParser, set_seed

from uamix_hf import AudioMAEFeatureExtractor
from uamix_hf.data import DataArguments, HeldOutArguments, compute_norm_stats
from uamix_hf.data.streaming import StreamingArguments
from uamix_hf.pretraining import (
    PretrainingArguments,
    PretrainingModelArguments,
    PretrainingTrainer,
    SettingsCallback,
    plot_at_checkpoints,
    pretraining_data,
    pretraining_model,
)


def main() -> None:
    parser = HfArgumentParser(
        (PretrainingModelArguments, DataArguments, StreamingArguments, HeldOutArguments, PretrainingArguments)
    )
    model_args, data_args, streaming_args, held_out_args, args = parser.parse_args_into_dataclasses()
    set_seed(args.seed)

    model, extractor = pretraining_model(model_args)
    max_frames = model.config.max_length
    data = pretraining_data(data_args, streaming_args, held_out_args, args, extractor, max_frames)
    if not model_args.model_name_or_path:
        mean, std = compute_norm_stats(data.sample(), extractor)
        extractor = AudioMAEFeatureExtractor.from_dict(extractor.to_dict(), mean=mean, std=std)

    trainer = PretrainingTrainer(model, args, data.train, extractor, data.held_out)
    plot_at_checkpoints(trainer, data, args.reconstructions)
    trainer.add_callback(SettingsCallback(model_args, data_args, streaming_args, held_out_args))
    if trainer.is_world_process_zero():
        print(f"Learning rate {args.learning_rate:.4g} for {args.clips_per_step} clips a step")
    trainer.train()
    trainer.save_model()
    if data.held_out is not None:
        trainer.save_metrics("eval", trainer.evaluate())
    skipped = trainer.skipped_recordings()
    if skipped and trainer.is_world_process_zero():
        print(f"{skipped} recordings were left out.")


if __name__ == "__main__":
    main()
