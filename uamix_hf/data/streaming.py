"""Folders and Hub datasets read as they come, without a cache: for more sound than a disk holds."""

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
from ..models.audio_mae.feature_extraction_audio_mae import AudioInputError, AudioMAEFeatureExtractor
from .log_mels import read_log_mel
from .metadata import DataError
from .recordings import came_with, foreign_file
from .undecoded import load_stream
from .where import StreamConditions

logger = logging.getLogger(__name__)

# Not `Audio`, see undecoded.py.
ROWS = Features({"audio": {"bytes": Value("binary"), "path": Value("string")}, "source": Value("string")})
# Parts that a folder's table is cut into, whose order changes with each pass; enough to be shared by many processes.
MOST_SHARDS = 1024
MOST_WORKERS = 1024  # of a loader
NEVER = 2**62  # the number of no pass


@dataclass
class StreamingArguments:
    """How sound is read that is not cached."""

    streaming: bool = field(
        default=False,
        metadata={
            "help": "Whether to decode recordings as they come, pass after pass, and cache nothing. Several datasets "
            "of the Hub, joined by +, are then read in turns."
        },
    )
    shuffle_buffer: int = field(
        default=1000, metadata={"help": "Clips held in memory to be shuffled; one of 10 s takes 0.25 MB."}
    )
    shortest_rest: int = field(
        default=100,
        metadata={"help": "Frames (10 ms) that what is left of a long recording must have to be a clip of its own."},
    )
    statistics_clips: int = field(
        default=1000, metadata={"help": "Clips that mean and standard deviation are computed of, from scratch."}
    )
    eval_split: str | None = field(
        default=None, metadata={"help": "Split of a streamed dataset of the Hub to evaluate on; it is cached."}
    )

    def __post_init__(self) -> None:
        for name in ("shuffle_buffer", "shortest_rest", "statistics_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1.")


class AudioStream(torch.utils.data.IterableDataset):
    """
    Clips without end: all windows of all recordings, in a new order in each pass.

    A clip has `log_mel` (frames, mel bins) float16, as the cache holds it, `sample_id`, a hash of where it is from that
    is the same in every run, and `visit`, the number of the pass. A long recording gives windows of `max_frames`; what
    is left counts where it has at least `shortest_rest` frames. The same seed gives the same order, so that a run
    resumes by reading up to where it stopped.

    Args:
        rows: Columns `audio` (undecoded) and `source` (what names the row). Of several processes, each reads its share.
        on_error: `"raise"`, or `"skip"` to leave unreadable recordings out; their number is in `skipped` ().
        source: What tells these rows from others, as JSON holds it, for checkpoints.
        conditions: Of the rows; values that none had are named after the first pass.

    Raises:
        AudioInputError: an unreadable recording (`on_error="raise"`). DataError: none at all could be read, by this
            process with all its workers, or a condition that cannot be met.
    """

    def __init__(
        self,
        rows: IterableDataset,
        feature_extractor: AudioMAEFeatureExtractor,
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
        # In shared memory, where each worker of a loader, a process, has its own place: unreadable recordings, and the
        # last pass that it ended, and that it found a clip in.
        self.unreadable = torch.zeros(MOST_WORKERS, dtype=torch.int64).share_memory_()
        self.ended = torch.full((MOST_WORKERS,), -1).share_memory_()
        self.found = torch.full((MOST_WORKERS,), -1).share_memory_()
        self.conditions = conditions

    @property
    def skipped(self) -> torch.Tensor:
        return self.unreadable.sum()

    def identity(self) -> dict[str, Any]:
        """What decides which clips come, and in which order."""
        own = {"max_frames": self.max_frames, "shuffle_buffer": self.args.shuffle_buffer,
               "shortest_rest": self.args.shortest_rest, "data_seed": self.seed}  # fmt: skip
        return own | dict(self.source or {})

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker, _ = worker_number()
        self.ended[worker], self.found[worker] = -1, -1
        if worker >= self.rows.num_shards:
            self.ended[worker] = NEVER  # it has nothing to read in any pass
            return
        for number in count():
            rng = np.random.default_rng([self.seed, number])
            for clip in shuffled(self.one_pass(number), self.args.shuffle_buffer, rng):
                self.found[worker] = number
                yield clip
            self.end_pass(number)

    def end_pass(self, number: int) -> None:
        """
        Raises:
            DataError: all workers are done with this pass, and none had a clip. One alone goes on to the next pass, in
                which it may have other recordings.
        """
        worker, workers = worker_number()
        self.ended[worker] = number
        ended, found = self.ended[:workers], self.found[:workers]
        if (ended >= number).all() and (found < number).all():
            self.ended[worker] = NEVER  # or others would wait for it
            raise DataError(
                f"Not one recording could be used in pass {number + 1} of the stream: see the warnings above, and "
                "whether the files are there."
            )
        if self.conditions is not None and (ended >= 0).all():
            self.conditions.warn_unmet()

    def one_pass(self, number: int) -> Iterator[dict[str, Any]]:
        """All clips of a pass once, windows of a recording one after the other."""
        rows = copy.deepcopy(self.rows)  # loaders' workers share the number of the epoch, and differ in pace
        rows.set_epoch(1 + self.seed * 1_000_003 + number)  # other than 0, it shuffles the shards
        for row in rows:
            try:
                audio = with_bytes(row["audio"])
                log_mel = torch.from_numpy(read_log_mel(audio, self.feature_extractor))
            except AudioInputError as error:
                if self.on_error == "raise":
                    raise
                if number == 0:  # others come to the same recordings later
                    self.unreadable[worker_number()[0]] += 1
                    logger.warning("Left out: %s", error)
                continue
            name = row["source"].encode() + hashlib.sha256(audio["bytes"] or b"").digest()
            for start in range(0, len(log_mel), self.max_frames):
                window = log_mel[start : start + self.max_frames]
                if start == 0 or len(window) >= self.args.shortest_rest:
                    digest = hashlib.sha256(name + start.to_bytes(8, "big")).digest()
                    # A copy: in the buffer, a window must not hold the whole recording.
                    sample_id = int.from_bytes(digest[:8], "big") >> 1
                    yield {"log_mel": window.clone(), "sample_id": sample_id, "visit": (number,)}


def worker_number() -> tuple[int, int]:
    """Of the loader's worker that this is, and how many there are; a loader without any is one itself."""
    worker = get_worker_info()
    return (0, 1) if worker is None else (worker.id, worker.num_workers)


def shuffled(clips: Iterable[Any], size: int, rng: np.random.Generator) -> Iterator[Any]:
    """All clips once, each in a random place among about the next `size`."""
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
    """A value of an audio column; what lies at a dataset's own address is fetched.

    Raises:
        AudioInputError: it cannot be fetched.
    """
    if audio["bytes"] is not None or "://" not in (audio["path"] or ""):
        return dict(audio)
    try:
        with fsspec.open(audio["path"], "rb") as file:
            return {"bytes": file.read(), "path": audio["path"]}
    except (OSError, ValueError) as error:
        raise AudioInputError(f"{source_name(audio)}: cannot be fetched ({error}).") from error


def folder_rows(recordings: Dataset, seed: int) -> IterableDataset:
    """Rows of a table of [`load_recordings`] to be streamed, shuffled as a whole."""
    order = np.random.default_rng(seed).permutation(len(recordings))
    audio, numbers, names = (recordings[column][:] for column in ("audio", "sample_id", "file_name"))
    columns = {"audio": [audio[row] for row in order], "source": [f"{numbers[row]}/{names[row]}" for row in order]}
    return Dataset.from_dict(columns, features=ROWS).to_iterable_dataset(num_shards=min(len(order), MOST_SHARDS))


def hub_rows(name: str, split: str, audio_column: str, conditions: StreamConditions) -> IterableDataset:
    """Rows of a dataset of the Hub to be streamed.

    Raises:
        DataError: no such column, or it holds no sound; while reading, a row that names a file elsewhere.
    """
    rows = load_stream(name, split)
    features = rows.features
    if features is None:
        raise DataError(f"{name} does not say which columns it has, so it cannot be streamed: leave out --streaming.")
    if audio_column not in features:
        raise DataError(f"{name} has no column {audio_column!r}, only {', '.join(features)}.")
    if not isinstance(features[audio_column], Audio):
        raise DataError(f"Column {audio_column!r} of {name} holds no sound but {features[audio_column]}.")

    conditions.add_stream(name, features)

    def named(row: Mapping[str, Any]) -> dict[str, Any]:
        audio = row[audio_column] or {"bytes": None, "path": None}
        path = audio["path"] or ""
        if audio["bytes"] is None and path and not came_with(path, name):
            raise foreign_file(path, name)
        return {"audio": audio, "source": f"{name}/{split}/{path}"}

    if conditions.conditions:
        rows = rows.filter(lambda row: conditions.meets(row, features))
    return rows.map(named, remove_columns=list(features), features=ROWS)


__all__ = ["AudioStream", "StreamingArguments", "folder_rows", "hub_rows"]
