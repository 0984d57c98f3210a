"""Audio columns of `datasets` that stay undecoded and do not need torchcodec; [`load_audio`] decodes them.

`Audio.encode_example` of `datasets` 5.0 to 5.2 imports torchcodec, and with it FFmpeg's libraries, even if the value is
a path or the bytes of a file. Rows of files, of archives and of streams are all encoded.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import Audio, IterableDataset, load_dataset_builder


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


__all__ = ["UndecodedAudio", "load_stream", "without_torchcodec"]
