"""Pretrain an Audio-MAE on sound without labels, or go on from a checkpoint:

accelerate launch examples/pretrain.py --train_dir recordings --output_dir audio-mae-tiny --preset tiny

Sound that no disk holds is streamed, from folders or from datasets of the Hub:

accelerate launch examples/pretrain.py --dataset_name one/dataset+another/one --streaming --max_steps 100000 \
    --output_dir audio-mae-base --preset base

docs/pretraining.md says more.
"""

import dataclasses
import json
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import HfArgumentParser, TrainerCallback, set_seed

from uamix_hf import AudioMAEFeatureExtractor
from uamix_hf.data import DataArguments, HeldOutArguments, compute_norm_stats
from uamix_hf.data.streaming import AudioStream, StreamingArguments
from uamix_hf.pretraining import (
    PretrainingArguments,
    PretrainingData,
    PretrainingModelArguments,
    PretrainingTrainer,
    pretraining_data,
    pretraining_model,
)


class SaveArguments(TrainerCallback):
    """All that the run was told, and the learning rate that came of it, to arguments.json: once it is sure that the
    folder is this run's."""

    def __init__(self, parts: tuple[Any, ...]):
        self.parts = parts

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            values = {name: value for part in self.parts for name, value in dataclasses.asdict(part).items()}
            text = json.dumps(values | args.to_dict(), indent=2, default=str)
            (Path(str(args.output_dir)) / "arguments.json").write_text(text + "\n")


def draw_at_checkpoints(trainer: PretrainingTrainer, data: PretrainingData, clips: int) -> None:
    """Pictures of held-out clips, else of ones that are trained on; none where matplotlib is absent."""
    if find_spec("matplotlib") is None:
        print("No pictures of reconstructions: pip install 'uamix_hf[demo]'")
        return
    from uamix_hf.pretraining.reconstructions import ReconstructionCallback

    source = data.sample() if data.held_out is None else data.held_out
    if isinstance(source, Dataset):  # clips of one class often follow one another
        source = source.select(range(0, len(source), max(1, len(source) // clips)))
    trainer.add_callback(ReconstructionCallback(trainer, list(islice(source, clips))))


def main() -> None:
    parser = HfArgumentParser(
        (PretrainingModelArguments, DataArguments, StreamingArguments, HeldOutArguments, PretrainingArguments)
    )
    *parts, args = parser.parse_args_into_dataclasses()
    model_args, data_args, streaming_args, held_out_args = parts
    set_seed(args.seed)

    model, extractor = pretraining_model(model_args)
    max_frames = model.config.max_length
    data = pretraining_data(data_args, streaming_args, held_out_args, args, extractor, max_frames)
    if not model_args.model_name_or_path:
        mean, std = compute_norm_stats(data.sample(), extractor)
        extractor = AudioMAEFeatureExtractor.from_dict(extractor.to_dict(), mean=mean, std=std)

    trainer = PretrainingTrainer(model, args, data.train, extractor, data.held_out)
    if args.reconstructions:
        draw_at_checkpoints(trainer, data, args.reconstructions)
    trainer.add_callback(SaveArguments(tuple(parts)))
    if trainer.is_world_process_zero():
        print(f"Learning rate {args.learning_rate:.4g} for {args.clips_per_step} clips a step")
    trainer.train()
    trainer.save_model()
    if data.held_out is not None:
        trainer.save_metrics("eval", trainer.evaluate())
    if isinstance(data.train, AudioStream):
        skipped = trainer.accelerator.reduce(data.train.skipped.to(args.device))
        if trainer.is_world_process_zero() and skipped:
            print(f"{int(skipped)} recordings were left out.")


if __name__ == "__main__":
    main()
