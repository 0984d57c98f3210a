"""Groups of recordings that belong together: of one speaker or source, or copies of the same audio."""

import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from ..audio.errors import source_name
from .metadata import abbreviate
from .where import column_as_text

logger = logging.getLogger(__name__)

BLOCK = 1 << 16  # bytes; enough to distinguish most files of equal size


def as_groups(values: list[str]) -> np.ndarray:
    """Group numbers (rows,) of values; every empty value is a group of its own."""
    distinct = [value or f"\0{row}" for row, value in enumerate(values)]
    return np.unique(distinct, return_inverse=True)[1]


def read_groups(recordings: Dataset, column: str | None = None) -> np.ndarray | None:
    """Groups recordings by a column and by content.

    Recordings that are copied, linked or listed twice are one group, with a warning: otherwise copies of training clips
    would be in the held-out part.

    Args:
        recordings: Table of [`load_recordings`].
        column: Column with speaker or source; an empty value is a group of its own.

    Returns:
        Group numbers (rows,), or None without a column if no two rows have the same audio.

    Raises:
        DataError: No such column.
    """
    groups = as_groups(column_as_text(recordings, column)) if column else None
    copies = same_audio(recordings)
    repeated = np.flatnonzero(copies != np.arange(len(copies)))
    if len(repeated) == 0:
        return groups
    audio = recordings["audio"]
    pairs = [f"{source_name(audio[int(row)])} is {source_name(audio[int(copies[row])])}" for row in repeated[:3]]
    logger.warning(
        "%d of %d rows have the audio of another row: %s. Rows of the same audio are one group.",
        len(repeated), len(copies), abbreviate([*pairs, *repeated[3:]], 3),
    )  # fmt: skip
    return copies if groups is None else merge_groups(groups, copies)


def merge_groups(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Merges two groupings (rows,) to the finest one in which rows share a group if they do in either."""
    second = second + first.max() + 1
    nodes = int(second.max()) + 1
    edges = coo_array((np.ones(len(first)), (first, second)), (nodes, nodes))
    return connected_components(edges)[1].astype(np.int64)[first]


def same_audio(recordings: Dataset) -> np.ndarray:
    """For each row, the first row with the same audio (rows,). Files are compared by size, middle, then whole."""
    audio = recordings["audio"]
    alike = [np.arange(len(recordings))]
    for property_of in (size_of, middle_of, digest_of):
        rows = [(row, group) for group, members in enumerate(alike) for row in members]
        found: dict[Any, list[int]] = {}
        for row, group in tqdm(rows, desc="Comparing", unit="clip", disable=property_of is not digest_of or not rows):
            if (value := property_of(audio[int(row)])) is not None:
                found.setdefault((group, value), []).append(int(row))
        alike = [np.array(members) for members in found.values() if len(members) > 1]
    numbers = np.arange(len(recordings))
    for members in alike:
        numbers[members] = members[0]
    return numbers


def size_of(value: Mapping[str, Any]) -> int | None:
    """Size of a recording in bytes, None if it is empty or missing."""
    if value["bytes"] is not None:
        return len(value["bytes"]) or None
    path = value["path"] or ""
    return (os.path.getsize(path) or None) if os.path.isfile(path) else None


def middle_of(value: Mapping[str, Any]) -> bytes | None:
    """Hash of the middle of a recording."""
    size = size_of(value) or 0

    def read(file: Any) -> bytes:
        file.seek(max(0, size - BLOCK) // 2)
        return hashlib.sha256(file.read(BLOCK)).digest()

    return read_or_none(value, read)


def digest_of(value: Mapping[str, Any]) -> bytes | None:
    """Hash of a whole recording."""
    return read_or_none(value, lambda file: hashlib.file_digest(file, "sha256").digest())


def read_or_none(value: Mapping[str, Any], read: Callable[[Any], bytes]) -> bytes | None:
    """Applies `read` to the open file; None if it cannot be read, which is an error on decoding."""
    try:
        with io.BytesIO(value["bytes"]) if value["bytes"] is not None else open(value["path"], "rb") as file:
            return read(file)
    except OSError:
        return None


__all__ = ["as_groups", "read_groups"]
