"""Pairs of recordings that share windows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

# Windows that are compared with all others at once: bounds memory where many are alike.
COMPARED_TOGETHER = 128


@dataclass
class FilePair:
    """Two recordings and their most similar windows as in [`Duplicate`], by numbers of files and of rows."""

    file: int
    other: int
    row: int = 0
    other_row: int = 0
    similarity: float = -1.0
    windows: int = 0


def file_pairs(vectors: Any, counts: np.ndarray, threshold: float, progress_bar: bool) -> Iterator[FilePair]:
    """Finds the pairs of files that share windows; of two, the one with fewer windows comes first.

    Args:
        vectors: Exact FAISS index of unit vectors, those of a file one after the other.
        counts: Number of windows of each file (files,) int.
        threshold: Least cosine similarity of two windows that count as the same.
        progress_bar: Whether to show a progress bar, which counts windows.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    pairs: dict[tuple[int, int], FilePair] = {}
    with tqdm(total=len(owner), desc="Comparing", unit="window", disable=not progress_bar) as bar:
        for start in range(0, len(owner), COMPARED_TOGETHER):
            queries = vectors.reconstruct_n(start, min(COMPARED_TOGETHER, len(owner) - start))
            limits, similarities, others = vectors.range_search(queries, threshold)
            rows = np.repeat(np.arange(start, start + len(queries)), np.diff(limits.astype(np.int64)))
            add_matches(pairs, owner, counts, rows, others, similarities)
            bar.update(len(queries))
    yield from pairs.values()


def add_matches(
    pairs: dict[tuple[int, int], FilePair],
    owner: np.ndarray,
    counts: np.ndarray,
    rows: np.ndarray,
    others: np.ndarray,
    similarities: np.ndarray,
) -> None:
    """Adds matches of windows to the pairs of their files.

    Args:
        pairs: What was found before, by numbers of files.
        owner: File of each row.
        counts: Windows of each file.
        rows: Matching rows (matches,) int.
        others: What they match (matches,) int.
        similarities: Cosine similarities (matches,).
    """
    a, b = owner[rows], owner[others]
    # Every match is found twice, from either side.
    chosen = (a != b) & ((counts[a] < counts[b]) | ((counts[a] == counts[b]) & (a < b)))
    a, b, rows, others, similarities = (values[chosen] for values in (a, b, rows, others, similarities))
    order = np.lexsort((-similarities, b, a))
    a, b, rows, others, similarities = (values[order] for values in (a, b, rows, others, similarities))
    begins = np.flatnonzero(np.r_[True, (np.diff(a) != 0) | (np.diff(b) != 0)]) if len(a) else np.empty(0, int)
    for begin, end in zip(begins, [*begins[1:], len(a)], strict=bool(len(begins))):
        pair = pairs.setdefault((a[begin], b[begin]), FilePair(int(a[begin]), int(b[begin])))
        pair.windows += len(np.unique(rows[begin:end]))
        if similarities[begin] > pair.similarity:
            pair.row, pair.other_row = int(rows[begin]), int(others[begin])
            pair.similarity = float(similarities[begin])


__all__ = ["FilePair", "file_pairs"]
