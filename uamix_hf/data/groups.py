"""Which recordings belong together: of one speaker or source, or the same audio under two names."""

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
from .metadata import first_few
from .where import column_as_text

logger = logging.getLogger(__name__)

BLOCK = 1 << 16  # bytes that tell most files of one size apart


def as_groups(values: list[str]) -> np.ndarray:
    """Group numbers (rows,); an empty value is a group of its own."""
    distinct = [value or f"\0{row}" for row, value in enumerate(values)]
    return np.unique(distinct, return_inverse=True)[1]


def read_groups(recordings: Dataset, column: str | None = None) -> np.ndarray | None:
    """Group numbers (rows,) by a column, and by the content of the files: what is copied, linked or listed twice is one
    group, with a warning. Otherwise a clip would be found by its copy, and learnt labels count as found.

    Args:
        recordings: Of [`load_recordings`]. column: Speaker or source; an empty value is a group of its own.

    Returns:
        None without a column where no two rows have the same audio.

    Raises:
        DataError: no such column.
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
        len(repeated), len(copies), first_few([*pairs, *repeated[3:]], 3),
    )  # fmt: skip
    return copies if groups is None else merged(groups, copies)


def merged(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Numbers (rows,) of the smallest groups that keep together what either of two groupings keeps together."""
    second = second + first.max() + 1
    nodes = int(second.max()) + 1
    edges = coo_array((np.ones(len(first)), (first, second)), (nodes, nodes))
    return connected_components(edges)[1].astype(np.int64)[first]


def same_audio(recordings: Dataset) -> np.ndarray:
    """For each row the first row with the same bytes of sound (rows,). Files are read only as far as they are alike."""
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
    """Bytes of a recording, None where there are none to be had."""
    if value["bytes"] is not None:
        return len(value["bytes"]) or None
    path = value["path"] or ""
    return (os.path.getsize(path) or None) if os.path.isfile(path) else None


def middle_of(value: Mapping[str, Any]) -> bytes | None:
    size = size_of(value) or 0

    def read(file: Any) -> bytes:
        file.seek(max(0, size - BLOCK) // 2)
        return hashlib.sha256(file.read(BLOCK)).digest()

    return opened(value, read)


def digest_of(value: Mapping[str, Any]) -> bytes | None:
    return opened(value, lambda file: hashlib.file_digest(file, "sha256").digest())


def opened(value: Mapping[str, Any], read: Callable[[Any], bytes]) -> bytes | None:
    """What `read` gives; None where the file cannot be read, which whoever decodes it will say."""
    try:
        with io.BytesIO(value["bytes"]) if value["bytes"] is not None else open(value["path"], "rb") as file:
            return read(file)
    except OSError:
        return None


__all__ = ["as_groups", "read_groups"]
