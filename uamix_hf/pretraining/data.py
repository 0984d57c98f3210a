"""Training and held-out data of pretraining: cached log-mels, or a stream."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets import Dataset, concatenate_datasets, interleave_datasets

from ..data import (
    DataArguments,
    DataError,
    HeldOutArguments,
    PreparedData,
    cached_features,
    load_recordings,
    prepare,
    read_groups,
    split_held_out,
)
from ..data.checks import refuse_idle
from ..data.streaming import AudioStream, StreamingArguments, folder_rows, hub_rows
from ..data.where import StreamConditions
from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from ..training.arguments import REFUSED
from ..training.run_identity import digest
from .arguments import PretrainingArguments


@dataclass
class PretrainingData:
    """Clips of a pretraining run.

    Args:
        train: Log-mels of [`cached_features`], or this process's part of a stream.
        held_out: Log-mels of [`cached_features`] to evaluate on, if any.
        sample: Returns a finite number of clips to compute statistics of, the same on all processes.
    """

    train: Dataset | AudioStream
    held_out: Dataset | None
    sample: Callable[[], Iterable[Any]]


def pretraining_data(
    data_args: DataArguments,
    streaming_args: StreamingArguments,
    held_out_args: HeldOutArguments,
    args: PretrainingArguments,
    feature_extractor: AudioMAEFeatureExtractor,
    max_frames: int,
) -> PretrainingData:
    """Read and split the recordings, or open the stream.

    Args:
        data_args: The recordings.
        streaming_args: Whether and how they are streamed.
        held_out_args: Rows to evaluate on; none by default.
        args: Training arguments.
        feature_extractor: Computes the log-mels.
        max_frames: Longest clip in frames, the model's `max_length`.

    Raises:
        DataError: missing folder, column or rows, nothing held out or nothing left.
        ValueError: arguments that contradict each other.
        AudioInputError: an unreadable recording that is cached, unless they are skipped.
    """
    if data_args.label_column:
        raise ValueError(f"label_column={data_args.label_column}: pretraining learns from no labels, leave it out.")
    if data_args.group_column and not (held_out_args.eval_where or held_out_args.eval_fraction):
        raise ValueError(
            f"group_column={data_args.group_column} has an effect only with --eval_where or --eval_fraction."
        )
    if streaming_args.eval_split and not (streaming_args.streaming and data_args.dataset_name):
        raise ValueError(
            "eval_split is for streamed datasets of the Hub: hold rows out with --eval_where or --eval_fraction."
        )
    if streaming_args.streaming:
        return streamed(data_args, streaming_args, held_out_args, args, feature_extractor, max_frames)
    refuse_idle(streaming_args, ("shuffle_buffer", "min_remainder_frames", "statistics_clips"), "--streaming")
    if args.ignore_data_skip:
        raise ValueError(f"ignore_data_skip is for streams: {REFUSED['ignore_data_skip']}.")
    with args.main_process_first(desc="log-mels"):
        data = prepare(data_args, feature_extractor)
    if args.process_index == 0:
        data.report_skipped()
    train, held_out = split_held_out(data, held_out_args, args.seed)
    return PretrainingData(train.dataset, held_out.dataset if held_out else None, lambda: train.dataset)


def streamed(
    data_args: DataArguments,
    streaming_args: StreamingArguments,
    held_out_args: HeldOutArguments,
    args: PretrainingArguments,
    feature_extractor: AudioMAEFeatureExtractor,
    max_frames: int,
) -> PretrainingData:
    """[`pretraining_data`] of a stream."""
    if args.max_steps <= 0:
        raise ValueError("A stream has no end: say with --max_steps how long to train.")
    for name in ("save_strategy", "eval_strategy", "logging_strategy"):
        if getattr(args, name) == "epoch":
            raise ValueError(f"A stream has no epochs: --{name} steps.")
    if args.dataloader_drop_last:
        raise ValueError("A stream has no last batch to drop: leave --dataloader_drop_last out.")
    if bool(data_args.train_dir) == bool(data_args.dataset_name):
        raise DataError("Give either folders of sound or the names of datasets.")
    seed = args.seed if args.data_seed is None else args.data_seed
    on_error, held_out = data_args.on_error, None
    holds_out = bool(held_out_args.eval_where or held_out_args.eval_fraction)
    if data_args.preprocessing_num_workers > 1 and not (holds_out or streaming_args.eval_split):
        raise ValueError(
            f"preprocessing_num_workers={data_args.preprocessing_num_workers}: of a stream nothing is cached, unless "
            "rows are held out. --dataloader_num_workers are the processes that decode it."
        )
    conditions = StreamConditions(data_args.where if data_args.dataset_name else ())
    if data_args.dataset_name:
        if holds_out:
            raise DataError("Rows of a stream of the Hub cannot be held out: name a split of it with --eval_split.")
        names = data_args.dataset_name.split("+")
        source = {"datasets": names, "split": data_args.dataset_split, "audio_column": data_args.audio_column,
                  "where": data_args.where}  # fmt: skip
        streams = [hub_rows(name, data_args.dataset_split, data_args.audio_column, conditions) for name in names]
        rows = interleave_datasets(streams, stopping_strategy="all_exhausted_without_replacement")
        if streaming_args.eval_split:
            splits = [
                dataclasses.replace(data_args, dataset_name=name, dataset_split=streaming_args.eval_split)
                for name in names
            ]
            with args.main_process_first(desc="log-mels"):
                held_out = concatenate_datasets([prepare(split, feature_extractor).dataset for split in splits])
    else:
        recordings = load_recordings(
            data_args.train_dir, None, data_args.dataset_split, data_args.audio_column, data_args.where
        )
        groups = read_groups(recordings, data_args.group_column) if holds_out else None
        # Not decoded yet: the rows to stream, and the few to cache.
        train, held = split_held_out(PreparedData(recordings, [], groups, {}, recordings), held_out_args, args.seed)
        rows, source = folder_rows(train.recordings, seed), files_identity(train.recordings)
        if held:
            with args.main_process_first(desc="log-mels"):
                held_out = cached_features(
                    held.recordings,
                    feature_extractor,
                    on_error,
                    data_args.cache_dir,
                    data_args.preprocessing_num_workers,
                ).dataset

    def stream(rank: int, world_size: int) -> AudioStream:
        return AudioStream(
            rows, feature_extractor, max_frames, streaming_args, on_error, seed, rank, world_size, source, conditions
        )

    return PretrainingData(
        stream(args.process_index, args.world_size),
        held_out,
        lambda: islice(stream(0, 1).one_pass(0), streaming_args.statistics_clips),
    )


def files_identity(recordings: Dataset) -> dict[str, Any]:
    """Hash of the names within their folders and the sizes of all files, in the order of the table."""
    paths = [value["path"] for value in recordings["audio"]]
    files = zip(recordings["sample_id"], recordings["file_name"], map(os.path.getsize, paths), strict=True)
    return {"clips": len(paths), "files": digest(list(files))}


__all__ = ["PretrainingData", "pretraining_data"]
