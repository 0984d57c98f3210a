"""Recordings in shards that several processes share out: of a folder, a table or a stream."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Audio, Dataset, IterableDataset

from .metadata import DataError, abbreviate
from .remote import remote_folder
from .sources import open_recordings
from .undecoded import UndecodedAudio

SHARD_SIZE = 1000  # recordings


@dataclass(frozen=True)
class ShardedRecordings:
    """Recordings, undecoded, in shards of a fixed order.

    Args:
        source: The recordings.
        shards: Number of shards.
        audio_column: Column of the audio.
        name_column: Column of the names; the audio's paths if None.
        identity: What tells them from other recordings, and from another split into shards; JSON-serialisable.
    """

    source: Dataset | IterableDataset
    shards: int
    audio_column: str
    name_column: str | None
    identity: dict[str, Any]

    def rows(self, shard: int, first: int, stop: int | None) -> Iterator[tuple[str, Any]]:
        """Yields the names and the audio of a shard's recordings from `first` to before `stop`, or to the end.

        Raises:
            DataError: A recording without a name.
        """
        rows = self.source.shard(num_shards=self.shards, index=shard).skip(first)
        for number, row in enumerate(rows if stop is None else rows.take(stop - first), first):
            audio = row[self.audio_column]
            path = audio.get("path") if isinstance(audio, dict) else audio
            name = path if self.name_column is None else row[self.name_column]
            yield checked_name(name, f"recording {number} of shard {shard}"), audio


def recordings_in_shards(
    recordings: Any, audio_column: str = "audio", name_column: str | None = None, shard_size: int | None = None
) -> ShardedRecordings:
    """Recordings in shards.

    Args:
        recordings: A folder, folders, the URL of one (see [`remote_folder`]) or a `datasets.Dataset`; or an
            `IterableDataset`, which has shards of its own.
        audio_column: Column of a data set that holds the audio.
        name_column: Column of the names: by default `file_name` of a table that has it, or else the audio's paths.
        shard_size: Recordings of a shard of a table, [`SHARD_SIZE`] if None.

    Raises:
        DataError: Missing columns, a table without a name for each row, or one that has a name twice.
        ValueError: `shard_size` below 1, or of a stream.
    """
    if isinstance(recordings, IterableDataset):
        if shard_size is not None:
            raise ValueError(f"shard_size={shard_size}: a stream has shards of its own; leave it out.")
        return stream_in_shards(recordings, audio_column, name_column)
    size = SHARD_SIZE if shard_size is None else shard_size
    if size < 1:
        raise ValueError(f"shard_size={size}: at least 1.")
    if isinstance(recordings, str) and "://" in recordings:
        recordings = remote_folder(recordings)
    table, name = open_recordings(recordings, audio_column)
    if name_column is None and "file_name" in table.column_names:
        name_column = "file_name"
    check_columns(name, table.column_names, name_column)
    table = table.select_columns(["audio", *([name_column] if name_column else [])])
    shards = math.ceil(len(table) / size)
    identity = {"recordings": len(table), "names": names_digest(table, name_column, name), "shards": shards}
    return ShardedRecordings(table, shards, "audio", name_column, identity)


def names_digest(table: Dataset, name_column: str | None, source: str) -> str:
    """SHA-256 of the names of a table's recordings, in order; no audio is read.

    Args:
        table: The table.
        name_column: Column of the names; the paths of the column `audio` if None.
        source: Name of the table, for messages.

    Raises:
        DataError: A row without a name, or two with the same.
    """
    column = name_column or "audio.path"
    names = (table if name_column else table.flatten()).select_columns([column]).with_format("arrow")
    digest, seen = hashlib.sha256(), set()
    for batch in names.iter(SHARD_SIZE):
        for row in batch[column].to_pylist():
            text = checked_name(row, f"a row of {source}")
            key = hashlib.sha256(text.encode()).digest()
            if key in seen:
                raise DataError(f"{source} has {text} twice: name_column says which column tells its recordings apart.")
            seen.add(key)
            digest.update(key)
    return digest.hexdigest()


def checked_name(name: Any, place: str) -> str:
    """The name of a recording as text.

    Args:
        name: Text, or a whole number.
        place: Where the recording is, for the message.

    Raises:
        DataError: There is none.
    """
    if not isinstance(name, (str, int)) or name == "":
        raise DataError(f"{place} has no name: name_column says which column has them.")
    return str(name)


def stream_in_shards(stream: IterableDataset, audio_column: str, name_column: str | None) -> ShardedRecordings:
    """As [`recordings_in_shards`], for a stream, whose rows are not read here."""
    name, columns = stream.info.dataset_name or "the stream", stream.column_names
    if columns is not None:
        check_columns(name, columns, audio_column, name_column)
    for column, feature in (stream.features or {}).items():
        if isinstance(feature, Audio):
            stream = stream.cast_column(column, UndecodedAudio())
    identity = {"dataset": stream.info.dataset_name, "split": str(stream.split), "shards": stream.num_shards}
    return ShardedRecordings(stream, stream.num_shards, audio_column, name_column, identity)


def check_columns(name: str, columns: list[str], *wanted: str | None) -> None:
    """Checks that a data set has columns, where they are not None.

    Raises:
        DataError: It lacks one.
    """
    if missing := [column for column in wanted if column is not None and column not in columns]:
        raise DataError(f"{name} has no column {', '.join(missing)}, only {abbreviate(columns)}.")


__all__ = ["ShardedRecordings", "recordings_in_shards"]
