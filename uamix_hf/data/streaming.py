"""Folders and Hub datasets as streams, without a cache: for more audio than fits a disk."""

import copy
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import fsspec
import numpy as np
import torch
from datasets import Audio, Dataset, Features, IterableDataset, Value
from datasets.distributed import split_dataset_by_node
from torch.utils.data import get_worker_info

from ..audio.errors import source_name
from ..models.audio_mae.feature_extraction_audio_mae import AudioInputError
from ..models.front_ends import FrontEnd
from .features import read_features
from .metadata import DataError
from .recordings import belongs_to_dataset, foreign_file_error
from .undecoded import load_stream
from .where import StreamConditions

logger = logging.getLogger(__name__)

# Not `Audio`, see undecoded.py.
ROWS = Features({"audio": {"bytes": Value("binary"), "path": Value("string")}, "source": Value("string")})
# Shards of a folder's table, whose order changes with each pass; enough for many processes.
MAX_SHARDS = 1024
MAX_WORKERS = 1024  # of a data loader
NEVER = 2**62  # greater than the number of any pass


@dataclass
class StreamingArguments:
    """Arguments of streaming audio.

    Raises:
        ValueError: A number below 1.
    """

    streaming: bool = field(
        default=False,
        metadata={
            "help": "Whether to decode recordings on the fly, pass after pass, and cache nothing. Several datasets "
            "of the Hub, joined by +, are interleaved."
        },
    )
    shuffle_buffer: int = field(
        default=1000, metadata={"help": "Clips held in memory for shuffling; one of 10 s takes 0.25 MB."}
    )
    min_remainder_frames: int = field(
        default=100,
        metadata={"help": "Frames (10 ms) that the last window of a long recording must have to be used."},
    )
    statistics_clips: int = field(
        default=1000,
        metadata={"help": "Clips from which mean and standard deviation are computed, when training from scratch."},
    )
    eval_split: str | None = field(
        default=None, metadata={"help": "Split of a streamed dataset of the Hub to evaluate on; it is cached."}
    )

    def __post_init__(self) -> None:
        for name in ("shuffle_buffer", "min_remainder_frames", "statistics_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1.")


class AudioStream(torch.utils.data.IterableDataset):
    """Infinite stream of clips: all windows of all recordings, in a new order in each pass.

    A clip has `features` (frames, mel bins) float16, as in the cache, `sample_id`, a hash of its source that is the
    same in every run, and `visit`, the number of the pass. Long recordings are split into windows of `max_frames`. The
    same seed gives the same order, so that a run resumes by reading up to where it stopped.

    Args:
        rows: Columns `audio` (undecoded) and `source` (name of the row). Each process reads its own part.
        feature_extractor: Makes the log-mels.
        max_frames: Frames of a window.
        args: Shuffling and windows.
        on_error: `"raise"`, or `"skip"` to leave unreadable recordings out; their number is `skipped` ().
        seed: Seed of the order.
        rank: Number of this process.
        world_size: Number of processes.
        source: Identifies the rows in checkpoints; JSON-serialisable.
        conditions: Conditions that the rows were filtered by; values that did not occur are named after the first pass.

    Raises:
        AudioInputError: An unreadable recording (`on_error="raise"`).
        DataError: Not one recording could be read by this process and all its workers, or a condition that cannot be
            met.
    """

    def __init__(
        self,
        rows: IterableDataset,
        feature_extractor: FrontEnd,
        max_frames: int,
        args: StreamingArguments,
        on_error: str = "raise",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        source: Mapping[str, Any] | None = None,
        conditions: StreamConditions | None = None,
    ):
        if conditions is not None:
            conditions.check_classes()
        self.source = source
        self.rows = split_dataset_by_node(rows, rank, world_size)
        self.feature_extractor = feature_extractor
        self.max_frames = max_frames
        self.args = args
        self.on_error = on_error
        self.seed = seed
        # In shared memory, with an entry for each worker process of a loader: unreadable recordings, the last pass that
        # it ended, and the last pass in which it found a clip.
        self.unreadable = torch.zeros(MAX_WORKERS, dtype=torch.int64).share_memory_()
        self.ended = torch.full((MAX_WORKERS,), -1).share_memory_()
        self.found = torch.full((MAX_WORKERS,), -1).share_memory_()
        self.conditions = conditions

    @property
    def skipped(self) -> torch.Tensor:
        return self.unreadable.sum()

    def identity(self) -> dict[str, Any]:
        """Settings that determine the clips and their order, for checkpoints."""
        own = {"max_frames": self.max_frames, "shuffle_buffer": self.args.shuffle_buffer,
               "min_remainder_frames": self.args.min_remainder_frames, "data_seed": self.seed}  # fmt: skip
        return own | dict(self.source or {})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker, _ = worker_number()
        self.ended[worker], self.found[worker] = -1, -1
        if worker >= self.rows.num_shards:
            self.ended[worker] = NEVER  # it has no shard in any pass
            return
        for number in count():
            rng = np.random.default_rng([self.seed, number])
            for clip in shuffled(self.one_pass(number), self.args.shuffle_buffer, rng):
                self.found[worker] = number
                yield clip
            self.end_pass(number)

    def end_pass(self, number: int) -> None:
        """Marks the end of a pass of this worker, and checks the pass once all workers have ended it.

        Raises:
            DataError: No worker had a clip in this pass. A single worker without one continues with the next pass, in
                which it may have other recordings.
        """
        worker, workers = worker_number()
        self.ended[worker] = number
        ended, found = self.ended[:workers], self.found[:workers]
        if (ended >= number).all() and (found < number).all():
            self.ended[worker] = NEVER  # else others would wait for it
            raise DataError(
                f"Not one recording could be used in pass {number + 1} of the stream: see the warnings above, and "
                "check that the files exist."
            )
        if self.conditions is not None and (ended >= 0).all():
            self.conditions.warn_unmet()

    def one_pass(self, number: int) -> Iterator[dict[str, Any]]:
        """Yields all clips of a pass once, windows of a recording one after the other."""
        rows = copy.deepcopy(self.rows)  # loaders' workers share the epoch number but differ in pace
        rows.set_epoch(1 + self.seed * 1_000_003 + number)  # shards are shuffled if it is not 0
        for row in rows:
            try:
                audio = with_bytes(row["audio"])
                log_mel = torch.from_numpy(read_features(audio, self.feature_extractor))
            except AudioInputError as error:
                if self.on_error == "raise":
                    raise
                if number == 0:  # in later passes other workers read the same recordings
                    self.unreadable[worker_number()[0]] += 1
                    logger.warning("Left out: %s", error)
                continue
            name = row["source"].encode() + hashlib.sha256(audio["bytes"] or b"").digest()
            for start in range(0, len(log_mel), self.max_frames):
                window = log_mel[start : start + self.max_frames]
                if start == 0 or len(window) >= self.args.min_remainder_frames:
                    digest = hashlib.sha256(name + start.to_bytes(8, "big")).digest()
                    # A copy, so that a window in the buffer does not keep the whole recording in memory.
                    sample_id = int.from_bytes(digest[:8], "big") >> 1
                    yield {"features": window.clone(), "sample_id": sample_id, "visit": (number,)}


def worker_number() -> tuple[int, int]:
    """Number of this worker of the data loader, and how many there are; (0, 1) without workers."""
    worker = get_worker_info()
    return (0, 1) if worker is None else (worker.id, worker.num_workers)


def shuffled(clips: Iterable[Any], size: int, rng: np.random.Generator) -> Iterator[Any]:
    """Yields all clips once, shuffled by a buffer of `size` clips."""
    buffer: list[Any] = []
    for clip in clips:
        if len(buffer) < size:
            buffer.append(clip)
            continue
        place = int(rng.integers(size))
        yield buffer[place]
        buffer[place] = clip
    for place in rng.permutation(len(buffer)):
        yield buffer[place]


def with_bytes(audio: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a value of an audio column, with its bytes if its path is a URL.

    Raises:
        AudioInputError: The URL cannot be fetched.
    """
    if audio["bytes"] is not None or "://" not in (audio["path"] or ""):
        return dict(audio)
    try:
        with fsspec.open(audio["path"], "rb") as file:
            return {"bytes": file.read(), "path": audio["path"]}
    except (OSError, ValueError) as error:
        raise AudioInputError(f"{source_name(audio)}: cannot be fetched ({error}).") from error


def folder_rows(recordings: Dataset, seed: int) -> IterableDataset:
    """Streams the rows of a table of [`load_recordings`], shuffled as a whole."""
    order = np.random.default_rng(seed).permutation(len(recordings))
    audio, numbers, names = (recordings[column][:] for column in ("audio", "sample_id", "file_name"))
    columns = {"audio": [audio[row] for row in order], "source": [f"{numbers[row]}/{names[row]}" for row in order]}
    return Dataset.from_dict(columns, features=ROWS).to_iterable_dataset(num_shards=min(len(order), MAX_SHARDS))


def hub_rows(name: str, split: str, audio_column: str, conditions: StreamConditions) -> IterableDataset:
    """Streams the rows of a dataset of the Hub.

    Args:
        name: Name of the dataset.
        split: Its split.
        audio_column: Its audio column.
        conditions: Conditions that the rows must meet.

    Raises:
        DataError: No such column, or one without audio; while reading, a row with a file outside the dataset.
    """
    rows = load_stream(name, split)
    features = rows.features
    if features is None:
        raise DataError(f"{name} does not declare its columns, so it cannot be streamed: leave out --streaming.")
    if audio_column not in features:
        raise DataError(f"{name} has no column {audio_column!r}, only {', '.join(features)}.")
    if not isinstance(features[audio_column], Audio):
        raise DataError(f"Column {audio_column!r} of {name} holds no audio but {features[audio_column]}.")

    conditions.add_stream(name, features)

    def named(row: Mapping[str, Any]) -> dict[str, Any]:
        audio = row[audio_column] or {"bytes": None, "path": None}
        path = audio["path"] or ""
        if audio["bytes"] is None and path and not belongs_to_dataset(path, name):
            raise foreign_file_error(path, name)
        return {"audio": audio, "source": f"{name}/{split}/{path}"}

    if conditions.conditions:
        rows = rows.filter(lambda row: conditions.meets(row, features))
    return rows.map(named, remove_columns=list(features), features=ROWS)


__all__ = ["AudioStream", "StreamingArguments", "folder_rows", "hub_rows"]
