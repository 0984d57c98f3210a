"""Embeddings of any number of recordings as Parquet files, by any number of processes, resumed where they stopped."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..data.checks import checked_batch_size
from ..data.shards import recordings_in_shards
from .embedder import AudioEmbedder
from .parts import PartOfShard, WindowSize
from .shard_files import VECTORS, Part, agree_on_settings, missing_rows, write_part, written_parts
from .weights import weights_digest

logger = logging.getLogger(__name__)


@dataclass
class ShardReport:
    """What one process did.

    Args:
        recordings: Recordings that it embedded in this call.
        rows: Rows that it wrote, one for each window.
        failed: Recordings that it could not read.
    """

    recordings: int = 0
    rows: int = 0
    failed: int = 0


def embed_to_shards(
    embedder: AudioEmbedder,
    recordings: Any,
    output_dir: str | os.PathLike,
    *,
    audio_column: str = "audio",
    name_column: str | None = None,
    overlap: float = 0.0,
    shard_size: int | None = None,
    batch_size: int = 16,
    on_error: str = "raise",
    process: tuple[int, int] = (0, 1),
    progress_bar: bool = True,
) -> ShardReport:
    """Embeds recordings window by window into `output_dir/vectors/*.parquet`, and continues what an earlier call began.

    A row has `file`, `start` and `end` of the window in seconds, and `vector` (embedding_size,) float32. Windows have
    `max_length` frames, the last one of a recording fewer; a shorter recording has one row, the vector of
    [`AudioEmbedder.encode`]. Recordings that could not be read are in `output_dir/failed`, with `file` and `error`.

    The recordings are split into shards, which the processes share out without a word to each other, and files appear
    whole. What is there is not computed again, by however many processes; a file of `vectors` that is deleted is. In
    memory are a batch, 10,000 rows, one more recording's rows, and the names of the files of a folder.

    Args:
        embedder: The embedder.
        recordings: A folder, folders, the URL of one, such as `"s3://bucket/recordings"`, or a `datasets.Dataset`; or
            an `IterableDataset` of a fixed order, whose own shards are used.
        output_dir: Folder on a disk that all processes see.
        audio_column: Column of a data set that holds the audio: files, or paths, which may be URLs of fsspec and are
            trusted.
        name_column: Column of what is written as `file`: by default `file_name` of a table that has it, or else the
            path of the audio.
        overlap: Seconds that two windows have in common.
        shard_size: Recordings of a shard of a table, 1000 if None; a process works on whole shards.
        batch_size: Windows in a batch.
        on_error: `"raise"`, or `"skip"` to record unreadable recordings and go on.
        process: Number of this process, from 0 on, and how many there are.
        progress_bar: Whether to show one, in recordings of this process.

    Raises:
        ShardSettingsError: The folder holds embeddings by another encoder, or of other windows or recordings.
        AudioInputError: An unreadable recording (`on_error="raise"`), or one that could not be fetched for another
            reason than that it is missing or forbidden.
        DataError: Recordings that have no names, or the same, or that cannot be used otherwise.
        ValueError: An argument out of range, or embeddings that are not finite.
    """
    batch_size, (rank, world) = checked_batch_size(batch_size), process
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: raise or skip.")
    if not 0 <= rank < world:
        raise ValueError(f"process={process}: its number, from 0 on, and how many there are.")
    if "://" in os.fspath(output_dir):
        raise ValueError(f"output_dir={output_dir}: a folder is needed, on this machine or a disk that all share.")
    window = WindowSize.of(embedder, overlap)
    source = recordings_in_shards(recordings, audio_column, name_column, shard_size)
    settings = {"name_or_path": embedder.model.name_or_path, "encoder": weights_digest(embedder)}
    agree_on_settings(output_dir, settings | window.settings() | source.identity)
    Path(output_dir, VECTORS).mkdir(exist_ok=True)
    if rank == 0 and source.shards < world:
        logger.warning("%d processes for %d shards: the others have nothing to do.", world, source.shards)
    written, report = written_parts(output_dir), ShardReport()
    todo = [
        (shard, first, stop)
        for shard in range(rank, source.shards, world)
        for first, stop in missing_rows(written.get(shard, []))
    ]
    with tqdm(desc=f"Embedding, process {rank}", unit="clip", position=rank, disable=not progress_bar) as bar:
        for shard, first, stop in todo:
            for part in parts_of(source.rows(shard, first, stop), embedder, window, batch_size, on_error):
                end = first + len(part.names)
                last = stop is None and not part.full
                if part.names or last:
                    write_part(output_dir, Part(shard, first, end, last), part.vectors(), part.failures())
                report.recordings += len(part.names) - len(part.failed)
                report.rows += len(part.rows)
                report.failed += len(part.failed)
                bar.update(len(part.names))
                first = end
    return report


def parts_of(
    rows: Iterator[tuple[str, Any]], embedder: AudioEmbedder, window: WindowSize, batch_size: int, on_error: str
) -> Iterator[PartOfShard]:
    """Embeds recordings part by part, of which only the last one is not full.

    Args:
        rows: Names and audio.
        embedder: The embedder.
        window: Size of the windows.
        batch_size: Windows in a batch.
        on_error: `"raise"` or `"skip"`.
    """
    full = True
    while full:
        part = PartOfShard(embedder, window, on_error)
        part.embed(rows, batch_size)
        full = part.full
        yield part


__all__ = ["ShardReport", "embed_to_shards"]
