"""The columns that every table of recordings has: undecoded audio, and a number for each row."""

import numpy as np
import pyarrow as pa
from datasets import Audio, Dataset

from .metadata import DataError
from .undecoded import without_torchcodec


def with_audio(table: Dataset, audio_column: str, name: str) -> Dataset:
    """A table whose audio is in the undecoded column `audio`.

    Args:
        table: Its audio is undecoded, to be decoded by `datasets`, or decoded already (`array` and `sampling_rate`).
        audio_column: Column that holds it.
        name: Name of the table, for messages.

    Raises:
        DataError: no such column, one that holds no audio, or another column called `audio`.
    """
    if audio_column not in table.column_names:
        raise DataError(f"{name} has no column {audio_column!r}, only {', '.join(table.column_names)}.")
    if audio_column != "audio" and "audio" in table.column_names:
        raise DataError(f"{name} has a column 'audio' beside {audio_column!r}: rename or remove it.")
    try:
        # load_audio decodes, for training and inference alike; it averages channels without a gain of 3 dB.
        with without_torchcodec():
            table = table.with_format(None).cast_column(audio_column, Audio(decode=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, TypeError) as error:
        raise DataError(f"Column {audio_column!r} of {name} holds no audio: {error}") from error
    return table if audio_column == "audio" else table.rename_column(audio_column, "audio")


def with_sample_ids(table: Dataset, name: str) -> Dataset:
    """A table with the column `sample_id`: its own, as [`load_recordings`] gives it, or else row numbers.

    Args:
        table: Recordings.
        name: Name of the table, for messages.

    Raises:
        DataError: a column `sample_id` that does not tell rows apart by whole numbers from 0 on.
    """
    if "sample_id" not in table.column_names:
        return table.add_column("sample_id", list(range(len(table))))
    ids = np.asarray(table["sample_id"])
    if ids.dtype.kind not in "iu" or len(np.unique(ids)) < len(ids) or ids.min(initial=0) < 0:
        raise DataError(
            f"{name} has a column 'sample_id' that does not number the rows (whole numbers from 0 on, each once): "
            "rename or remove it."
        )
    return table


__all__ = ["with_audio", "with_sample_ids"]
