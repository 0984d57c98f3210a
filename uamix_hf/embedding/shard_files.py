"""Files of a folder of embeddings: parts that are written whole or not at all, and the settings that they share."""

import json
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SETTINGS_FILE = "settings.json"
VECTORS, FAILED = "vectors", "failed"
PART_NAME = re.compile(r"(\d{6,})-(\d{9,})-(\d{9,})(-last)?\.parquet")
# Settings that are kept for the reader alone: the weights themselves are compared.
NOT_COMPARED = {"name_or_path"}


class ShardSettingsError(ValueError):
    """Settings that do not fit the embeddings that a folder already holds; the message names them."""


@dataclass(frozen=True, order=True)
class Part:
    """A file with the embeddings of consecutive recordings of a shard; its name tells which.

    Args:
        shard: Number of the shard.
        first: Number of its first recording within the shard.
        end: Number of the recording after its last one.
        last: Whether the shard has no recordings after these.
    """

    shard: int
    first: int
    end: int
    last: bool

    @property
    def file_name(self) -> str:
        return f"{self.shard:06d}-{self.first:09d}-{self.end:09d}{'-last' * self.last}.parquet"


def written_parts(folder: str | os.PathLike) -> dict[int, list[Part]]:
    """The parts of each shard that a folder of embeddings holds, in order."""
    parts: dict[int, list[Part]] = {}
    for name in sorted(os.listdir(Path(folder, VECTORS))):
        if match := PART_NAME.fullmatch(name):
            part = Part(int(match[1]), int(match[2]), int(match[3]), match[4] is not None)
            parts.setdefault(part.shard, []).append(part)
    return parts


def missing_rows(parts: Iterable[Part]) -> list[tuple[int, int | None]]:
    """Ranges of a shard's recordings that none of its parts, in order, holds; None for its unknown end."""
    missing: list[tuple[int, int | None]] = []
    end, ended = 0, False
    for part in parts:
        if part.first > end:
            missing.append((end, part.first))
        end, ended = max(end, part.end), ended or part.last
    return missing if ended else [*missing, (end, None)]


def write_part(folder: str | os.PathLike, part: Part, vectors: pa.Table, failed: pa.Table) -> None:
    """Writes a part; its recordings that failed come first, so that a part that is there is complete.

    Args:
        folder: Folder of the embeddings.
        part: Which recordings they are.
        vectors: Rows of the part.
        failed: Recordings that could not be read; no file is written if there are none.
    """
    target = Path(folder, FAILED, part.file_name)
    if len(failed):
        target.parent.mkdir(exist_ok=True)
        write_whole(target, failed)
    else:
        target.unlink(missing_ok=True)  # of a part that was deleted to be tried again
    write_whole(Path(folder, VECTORS, part.file_name), vectors)


def write_whole(target: Path, table: pa.Table) -> None:
    """Writes a Parquet file under another name and renames it, so that it is whole or absent."""
    partial = target.with_name(f"{target.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        pq.write_table(table, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    for left in target.parent.glob(f"{target.name}.*.partial"):  # of a process that was killed
        left.unlink(missing_ok=True)


def agree_on_settings(folder: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Records the settings of a folder of embeddings, or checks those that it has; the first process records them.

    Args:
        folder: Folder of the embeddings, created if it does not exist.
        settings: Values that JSON can hold.

    Raises:
        ShardSettingsError: The folder has other settings, or files that are not of embeddings.
    """
    file = Path(folder, SETTINGS_FILE)
    Path(folder).mkdir(parents=True, exist_ok=True)
    if not file.exists():
        others = [name for name in os.listdir(folder) if not name.startswith((SETTINGS_FILE, VECTORS, FAILED))]
        if others or (Path(folder, VECTORS).is_dir() and written_parts(folder)):
            raise ShardSettingsError(f"{folder} is not empty and has no {SETTINGS_FILE}: give a folder of its own.")
        partial = Path(folder, f"{SETTINGS_FILE}.{socket.gethostname()}-{os.getpid()}.partial")
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        try:
            os.link(partial, file)  # unlike a rename, never over a file that another process has written meanwhile
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    try:
        recorded = dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ShardSettingsError(f"{file} is not as it was written ({error}): give another folder.") from error
    given = json.loads(json.dumps(settings))
    names = [name for name in sorted(recorded.keys() | given.keys()) if recorded.get(name) != given.get(name)]
    if changed := [name for name in names if name not in NOT_COMPARED]:
        was = "; ".join(f"{name} was {recorded.get(name)}, now {given.get(name)}" for name in changed)
        raise ShardSettingsError(f"{folder} holds embeddings of other settings ({was}): give these, or another folder.")


__all__ = [
    "FAILED",
    "VECTORS",
    "Part",
    "ShardSettingsError",
    "agree_on_settings",
    "missing_rows",
    "write_part",
    "written_parts",
]
