"""Audio columns of `datasets` that stay undecoded and do not need torchcodec; [`load_audio`] decodes them.

`Audio.encode_example` of `datasets` 5.0 to 5.2 imports torchcodec, and with it FFmpeg's libraries, even if the value is
a path or the bytes of a file. Rows of files, of archives and of streams are all encoded.
"""

import atexit
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import Audio, Dataset, Features, IterableDataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError

from .metadata import DataError

logger = logging.getLogger(__name__)


@dataclass
class UndecodedAudio(Audio):
    """`Audio(decode=False)` that encodes without torchcodec."""

    decode: bool = False

    def encode_example(self, value: Any) -> dict[str, Any]:
        """Encodes a value for Arrow.

        Args:
            value: A path, the bytes of a file, a dictionary of both, or one of `array` and `sampling_rate`.

        Returns:
            A dictionary of `bytes` and `path`.
        """
        if isinstance(value, (str, Path)):
            return {"bytes": None, "path": str(value)}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": bytes(value), "path": None}
        if value.get("array") is not None:
            file = io.BytesIO()
            soundfile.write(file, np.asarray(value["array"]).T, value["sampling_rate"], format="WAV", subtype="FLOAT")
            return {"bytes": file.getvalue(), "path": None}
        return {"bytes": value.get("bytes"), "path": value.get("path")}


@contextmanager
def without_torchcodec() -> Iterator[None]:
    """Context in which `Audio` encodes as [`UndecodedAudio`], for features that `datasets` makes itself."""
    original = Audio.encode_example
    Audio.encode_example = UndecodedAudio.encode_example  # type: ignore[method-assign]
    try:
        yield
    finally:
        Audio.encode_example = original  # type: ignore[method-assign]


def load_stream(name: str, split: str) -> IterableDataset:
    """As `datasets.load_dataset(name, split, streaming=True)`, with undecoded audio."""
    builder = load_dataset_builder(name)
    if hasattr(builder.config, "decode_num_threads"):
        builder.config.decode_num_threads = 0  # else files on the Hub are decoded before the column is cast
    rows = builder.as_streaming_dataset(split)
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, Audio):
            rows = rows.cast_column(column, UndecodedAudio())
    return rows


def read_stream(stream: IterableDataset) -> Dataset:
    """Reads a stream once, to its end, into a table on disk, for training that visits each clip many times.

    The audio stays encoded as it comes, in a temporary folder that is removed at the end of the process. The folder is
    new each time, so that no rows of an earlier reading are taken for those of this one.

    Args:
        stream: Finite; `stream.take(n)` ends an infinite one.

    Raises:
        DataError: a stream without rows.
        datasets.exceptions.DatasetGenerationError: a row that cannot be read.
    """
    features = stream.features
    if features is not None:
        audio = [column for column, feature in features.items() if isinstance(feature, Audio)]
        for column in audio:
            stream = stream.cast_column(column, UndecodedAudio())
        features = Features({**features, **{column: Audio(decode=False) for column in audio}})
    folder = tempfile.mkdtemp(prefix="uamix-stream-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logger.warning("The stream is read to its end into %s, since tuning visits each clip many times.", folder)
    try:
        with without_torchcodec():
            return Dataset.from_generator(rows_of, features, folder, gen_kwargs={"stream": stream})
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise


def rows_of(stream: IterableDataset) -> Iterator[dict[str, Any]]:
    """Yields the rows of a stream.

    Raises:
        DataError: there are none.
    """
    row = None
    for row in stream:
        yield row
    if row is None:
        raise DataError("The stream has no rows.")


__all__ = ["UndecodedAudio", "load_stream", "read_stream", "without_torchcodec"]
