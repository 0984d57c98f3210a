"""What an index answers."""

from typing import NamedTuple


class Hit(NamedTuple):
    """A place that sounds like a query.

    Args:
        file: Name of the recording, relative to the folder.
        start: Begin of the window in s.
        end: End of it in s.
        similarity: Cosine similarity of its embedding and the query's, in [-1, 1].
    """

    file: str
    start: float
    end: float
    similarity: float


class Changes(NamedTuple):
    """What an update of an index did, by names of recordings.

    Args:
        added: New ones.
        changed: Those whose size or time of change differs from when they were read; they were embedded again.
        removed: Those that are no longer in the folder.
        unreadable: The reasons for those that could not be read and are not in the index. The next update tries again.
        kept: Number of those that are as they were.
    """

    added: list[str]
    changed: list[str]
    removed: list[str]
    unreadable: dict[str, str]
    kept: int


class Duplicate(NamedTuple):
    """Two recordings that share windows.

    Args:
        file: Name of the recording of fewer windows.
        other: Name of the other one.
        start: Begin in s of its window that is most similar to one of the other recording.
        other_start: Begin in s of that window.
        similarity: Cosine similarity of these two windows.
        share: Fraction of the windows of `file` that are in `other` as well, in (0, 1].
    """

    file: str
    other: str
    start: float
    other_start: float
    similarity: float
    share: float


__all__ = ["Changes", "Duplicate", "Hit"]
