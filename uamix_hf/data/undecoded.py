"""Audio columns of `datasets` that stay as they are: [`load_audio`] decodes them, torchcodec is not asked for.

`Audio.encode_example` of `datasets` 5.0 to 5.2 imports torchcodec, and with it FFmpeg's libraries, before it looks at
the value, even where that is a path or the bytes of a file. Rows of files, of archives and of streams are all encoded.
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
    """`Audio(decode=False)` that encodes by itself."""

    decode: bool = False

    def encode_example(self, value: Any) -> dict[str, Any]:
        """A path, the bytes of a file, a dictionary of both, or of `array` and `sampling_rate`, as Arrow stores it."""
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
    """Inside, `Audio` encodes as [`UndecodedAudio`]: for what `datasets` builds with features that it makes itself."""
    original = Audio.encode_example
    Audio.encode_example = UndecodedAudio.encode_example  # type: ignore[method-assign]
    try:
        yield
    finally:
        Audio.encode_example = original  # type: ignore[method-assign]


def load_stream(name: str, split: str) -> IterableDataset:
    """`datasets.load_dataset(name, split, streaming=True)`, audio undecoded."""
    builder = load_dataset_builder(name)
    if hasattr(builder.config, "decode_num_threads"):
        builder.config.decode_num_threads = 0  # else rows of files on the Hub are encoded before they can be cast
    rows = builder.as_streaming_dataset(split)
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, Audio):
            rows = rows.cast_column(column, UndecodedAudio())
    return rows


__all__ = ["UndecodedAudio", "load_stream", "without_torchcodec"]
