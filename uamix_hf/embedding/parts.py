"""The windows of a few recordings with their embeddings, as rows of a table."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ..audio.loading import stream_audio
from ..data.streaming import with_bytes
from ..models.audio_mae.feature_extraction_audio_mae import AudioInputError
from .embedder import AudioEmbedder
from .overlap import overlapping
from .read_ahead import read_ahead
from .windows import batches_of_windows

logger = logging.getLogger(__name__)

PART_ROWS = 10_000  # after which a part is written: what is in memory, and what is repeated after a kill


@dataclass(frozen=True)
class WindowSize:
    """Size of the windows of recordings.

    Args:
        max_length: Frames of a window.
        samples: Samples of a window.
        hop: Samples from the beginning of a window to that of the next one.
        min_samples: Samples of one frame.
        sampling_rate: In Hz.
    """

    max_length: int
    samples: int
    hop: int
    min_samples: int
    sampling_rate: int

    @classmethod
    def of(cls, embedder: AudioEmbedder, overlap: float) -> Self:
        """The windows of an embedder.

        Args:
            embedder: The embedder.
            overlap: Seconds that two windows have in common.

        Raises:
            ValueError: Less than nothing, or so much that windows hardly advance.
        """
        extractor, samples = embedder.feature_extractor, embedder.window_samples
        longest = (samples - extractor.min_samples) / extractor.sampling_rate
        if not 0 <= overlap <= longest:
            raise ValueError(f"overlap={overlap}: 0 to {longest:.3f} s, by which windows of this length advance.")
        hop = samples - round(overlap * extractor.sampling_rate)
        return cls(extractor.max_length, samples, hop, extractor.min_samples, extractor.sampling_rate)

    def settings(self) -> dict[str, Any]:
        """What identifies the windows of a folder of embeddings."""
        overlap = (self.samples - self.hop) / self.sampling_rate
        return {"max_length": self.max_length, "overlap": overlap, "sampling_rate": self.sampling_rate}

    def split(self, audio: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the first sample's number and the samples of each window of a recording."""
        blocks = stream_audio(audio, self.sampling_rate, self.samples / self.sampling_rate)
        yield from overlapping(blocks, self.samples, self.hop, self.min_samples)


class PartOfShard:
    """Consecutive recordings of a shard, whose rows are written to one file.

    It is full, and takes no more recordings, once it has 10,000 rows or failures.

    Args:
        embedder: The embedder.
        window: Size of the windows.
        on_error: `"raise"`, or `"skip"` to remember unreadable recordings in `failed`, with the reason.
    """

    def __init__(self, embedder: AudioEmbedder, window: WindowSize, on_error: str):
        self.embedder = embedder
        self.window = window
        self.on_error = on_error
        self.names: list[str] = []
        self.failed: dict[int, str] = {}
        self.rows: list[tuple[int, int, int, np.ndarray]] = []  # recording, first sample, sample after the last, vector
        self.full = False

    def embed(self, recordings: Iterator[tuple[str, Any]], batch_size: int) -> None:
        """Embeds recordings until the part is full or there are no more.

        Args:
            recordings: Names and audio.
            batch_size: Windows in a batch.

        Raises:
            AudioInputError: A recording that cannot be read, or fetched.
            ValueError: Embeddings that are not finite.
        """
        windows = read_ahead(self.windows(recordings), batch_size)
        with closing(batches_of_windows(windows, batch_size, self.window.samples)) as batches:
            for batch in batches:
                self.add_rows(batch)
        self.rows = sorted((row for row in self.rows if row[0] not in self.failed), key=lambda row: row[:2])

    def add_rows(self, batch: list[tuple[tuple[int, int], np.ndarray]]) -> None:
        """Embeds a batch of windows.

        Raises:
            ValueError: Embeddings that are not finite.
        """
        vectors = self.embedder.embed([samples for _, samples in batch])[0].astype(np.float32)
        for ((number, start), samples), vector in zip(batch, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise ValueError(
                    f"The embedding of {self.names[number]} is not finite: check the encoder's weights, or compute in "
                    "float32."
                )
            self.rows.append((number, start, start + len(samples), vector))

    def windows(self, recordings: Iterator[tuple[str, Any]]) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Yields the number of the recording and of the first sample, and the samples, of each window."""
        count = 0
        for name, audio in recordings:
            number = len(self.names)
            self.names.append(name)
            try:
                for start, samples in self.window.split(self.fetched(audio)):
                    count += 1
                    yield (number, start), samples
            except AudioInputError as error:
                if self.on_error == "raise" or isinstance(error, FetchError):
                    raise
                logger.warning("Left out: %s", error)
                self.failed[number] = str(error)
                count += 1
            if count >= PART_ROWS:
                self.full = True
                return

    def fetched(self, audio: Any) -> Any:
        """Returns the audio, with its bytes if it is a URL.

        Raises:
            AudioInputError: The file is missing or forbidden.
            FetchError: It could not be fetched for another reason, which may be over when the run is started again.
        """
        if isinstance(audio, str):
            audio = {"bytes": None, "path": audio}
        if not isinstance(audio, dict) or "path" not in audio:
            return audio
        try:
            return with_bytes({"bytes": None} | audio)
        except AudioInputError as error:
            if isinstance(error.__cause__, (FileNotFoundError, PermissionError)):
                raise
            raise FetchError(f"{error} Start again when the connection is back.") from error

    def vectors(self) -> pa.Table:
        """The rows as a table: `file`, `start` and `end` in seconds, `vector` (embedding_size,) float32."""
        size, rate = self.embedder.embedding_size, self.window.sampling_rate
        flat = np.concatenate([np.empty(0, np.float32), *(row[3] for row in self.rows)])
        return pa.table({
            "file": pa.array([self.names[row[0]] for row in self.rows], pa.string()),
            "start": pa.array([row[1] / rate for row in self.rows], pa.float64()),
            "end": pa.array([row[2] / rate for row in self.rows], pa.float64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), size),
        })  # fmt: skip

    def failures(self) -> pa.Table:
        """The recordings that could not be read: `file` and `error`."""
        names = [self.names[number] for number in self.failed]
        return pa.table({"file": pa.array(names, pa.string()), "error": pa.array(self.failed.values(), pa.string())})


class FetchError(AudioInputError):
    """A recording that could not be fetched from where it lies, though it may be there; the message names it."""


__all__ = ["FetchError", "PartOfShard", "WindowSize"]
