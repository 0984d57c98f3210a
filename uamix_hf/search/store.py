"""The files of an index: a FAISS index of vectors, and a manifest that says what they are of."""

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"
LAYOUT = 1


class AudioIndexError(ValueError):
    """An index that cannot be used, or not with this encoder, window or folder; the message says what to do."""


@dataclass(frozen=True)
class IndexedFile:
    """A recording in the index.

    Args:
        size: Its size in bytes when it was read.
        modified: Its time of change then, in ns.
        windows: Number of its windows, which are rows of the index one after the other.
        seconds: Its length in s.
    """

    size: int
    modified: int
    windows: int
    seconds: float


@dataclass
class Manifest:
    """What the vectors of an index are of.

    Args:
        encoder: Name of the encoder, for messages.
        window_seconds: Length of a window in s.
        probe: Embedding of the test signal (embedding_size), by which another encoder is recognised.
        files: Recordings by their name relative to the folder, in the order of their rows.
        vectors: Name of the file of the vectors; empty before the first.
        layout: Version of this layout.
    """

    encoder: str
    window_seconds: float
    probe: list[float]
    files: dict[str, IndexedFile] = field(default_factory=dict)
    vectors: str = ""
    layout: int = LAYOUT

    def first_rows(self) -> np.ndarray:
        """Row of the first window of each recording (files,) int64."""
        counts = [entry.windows for entry in self.files.values()]
        return np.cumsum([0, *counts], dtype=np.int64)[:-1]

    def rows_of(self, names: Collection[str]) -> np.ndarray:
        """Rows (windows,) int64 of recordings."""
        first = dict(zip(self.files, self.first_rows(), strict=True))
        return np.concatenate([first[name] + np.arange(self.files[name].windows) for name in names])

    def half_seconds(self, sampling_rate: int) -> float:
        """Time from the begin of a window to that of the next in s, whole samples at `sampling_rate` Hz."""
        return round(self.window_seconds / 2 * sampling_rate) / sampling_rate

    def places(self, rows: Sequence[int], sampling_rate: int) -> Iterator[tuple[str, float]]:
        """Yields file and begin in s of the windows of rows."""
        first, names = self.first_rows(), list(self.files)
        for row, number in zip(rows, np.searchsorted(first, rows, side="right") - 1, strict=True):
            yield names[number], float((row - first[number]) * self.half_seconds(sampling_rate))


def import_faiss() -> Any:
    """The module `faiss`.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("An index needs faiss: pip install 'uamix_hf[search]'.") from error
    return faiss


def new_vectors(width: int) -> Any:
    """An empty exact index of unit vectors by their inner product."""
    return import_faiss().IndexFlatIP(width)


def read_index(folder: Path) -> tuple[Manifest, Any] | None:
    """Reads an index, or returns None where the folder is absent or empty.

    Raises:
        AudioIndexError: A folder that holds something else, or an index that is damaged.
    """
    file = folder / MANIFEST
    if not file.is_file():
        if folder.exists() and not (folder.is_dir() and all(is_left_over(path) for path in folder.iterdir())):
            raise AudioIndexError(f"{folder} holds no index ({MANIFEST} is missing): give an empty or a new folder.")
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["layout"] != LAYOUT:
            raise AudioIndexError(f"{file} has layout {values['layout']}, not {LAYOUT}: make the index anew.")
        files = {name: IndexedFile(**entry) for name, entry in values.pop("files").items()}
        manifest = Manifest(files=files, **values)
        vectors = import_faiss().read_index(str(folder / manifest.vectors))
    except (KeyError, RuntimeError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AudioIndexError(f"{folder} is damaged ({error}): delete it, and make the index anew.") from error
    rows = sum(entry.windows for entry in files.values())
    if (vectors.ntotal, vectors.d) != (rows, len(manifest.probe)):
        raise AudioIndexError(
            f"{folder} is damaged: {manifest.vectors} holds {vectors.ntotal} vectors of {vectors.d} dimensions, and "
            f"{MANIFEST} lists {rows} of {len(manifest.probe)}. Delete it, and make the index anew."
        )
    return manifest, vectors


def is_left_over(path: Path) -> bool:
    """Whether a file can be what an interrupted first write leaves."""
    return path.match("vectors-*.faiss") or path.match(f"{MANIFEST}.partial")


def write_index(folder: Path, manifest: Manifest, vectors: Any) -> None:
    """Writes an index. An interrupted write leaves the earlier one whole, since the manifest is replaced last."""
    folder.mkdir(parents=True, exist_ok=True)
    before = manifest.vectors
    number = int(before.removeprefix("vectors-").removesuffix(".faiss") or 0) + 1
    manifest.vectors = f"vectors-{number}.faiss"
    import_faiss().write_index(vectors, str(folder / manifest.vectors))
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(asdict(manifest), ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(partial, folder / MANIFEST)
    if before:
        (folder / before).unlink(missing_ok=True)


def without_rows(vectors: Any, rows: np.ndarray) -> None:
    """Removes rows (count,) int64 of an index in place; the others keep their order."""
    vectors.remove_ids(import_faiss().IDSelectorBatch(rows))


__all__ = [
    "AudioIndexError", "IndexedFile", "Manifest", "new_vectors", "read_index", "without_rows", "write_index",
]  # fmt: skip
