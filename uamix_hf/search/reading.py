"""Which recordings of a folder an index lacks, and their embeddings."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.preprocessing import normalize
from tqdm.auto import tqdm

from ..audio.errors import AudioInputError
from ..data.folders import audio_folder
from ..embedding.embedder import AudioEmbedder
from ..embedding.overlap import half_overlapping
from .store import IndexedFile


@dataclass
class FolderState:
    """A folder compared with the recordings of an index.

    Args:
        new: Names of recordings that the index lacks.
        changed: Those whose size or time of change is another one.
        missing: Those that the folder lacks.
        kept: Number of the others.
        pending: Paths of what is to be embedded, by name; what is done is taken out.
        unreadable: Reasons for what could not be read, by name.
    """

    new: list[str]
    changed: list[str]
    missing: list[str]
    kept: int
    pending: dict[str, str]
    unreadable: dict[str, str] = field(default_factory=dict)


def compare_folder(folder: str | os.PathLike, files: Mapping[str, IndexedFile]) -> FolderState:
    """Compares a folder with the recordings of an index.

    Raises:
        DataError: No folder, or one without recordings.
    """
    table = audio_folder(Path(folder))
    # A table of segments lists a file several times.
    paths = {name: value["path"] for name, value in zip(table["file_name"], table["audio"], strict=True)}
    new = [name for name in paths if name not in files]
    changed = [name for name in paths if name in files and is_changed(paths[name], files[name])]
    missing = [name for name in files if name not in paths]
    kept = len(paths) - len(new) - len(changed)
    return FolderState(new, changed, missing, kept, {name: paths[name] for name in [*new, *changed]})


def is_changed(path: str, entry: IndexedFile) -> bool:
    """Whether a file has another size or time of change than when it was read."""
    state = os.stat(path)
    return (state.st_size, state.st_mtime_ns) != (entry.size, entry.modified)


def embed_pending(
    embedder: AudioEmbedder, state: FolderState, window_seconds: float, most: int, batch_size: int, bar: tqdm
) -> tuple[dict[str, IndexedFile], np.ndarray]:
    """Embeds the windows of recordings that are pending, until there are enough windows or no recording is left.

    Args:
        embedder: The encoder.
        state: Its `pending` and `unreadable` are changed.
        window_seconds: Length of a window in s.
        most: No recording is begun after so many windows.
        batch_size: Windows in a batch.
        bar: Counts recordings.

    Returns:
        The recordings that could be read to their end, by name, and the unit embeddings (windows, embedding_size)
        float32 of their windows in that order.
    """
    rate = embedder.feature_extractor.sampling_rate
    half = round(window_seconds / 2 * rate)
    files: dict[str, IndexedFile] = {}
    whole: list[bool] = []  # for each window, whether its recording could be read to its end

    def windows() -> Iterator[np.ndarray]:
        while state.pending and len(whole) < most:
            name = next(iter(state.pending))
            path, first, samples = state.pending[name], len(whole), 0
            try:
                found = os.stat(path)  # before it is read: what is written meanwhile counts as a change
                for window in half_overlapping(path, rate, window_seconds):
                    samples = (len(whole) - first) * half + len(window)
                    whole.append(True)
                    yield window
            except (AudioInputError, OSError) as error:
                whole[first:] = [False] * (len(whole) - first)
                state.unreadable[name] = str(error)
            else:
                files[name] = IndexedFile(found.st_size, found.st_mtime_ns, len(whole) - first, samples / rate)
            del state.pending[name]
            bar.update()

    vectors = embedder.encode(windows(), batch_size, progress_bar=False)[whole]
    return files, normalize(vectors) if len(vectors) else vectors


__all__ = ["FolderState", "compare_folder", "embed_pending"]
