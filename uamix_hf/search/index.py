"""An index on disk of the windows of recordings, which answers with files and times, and grows with its folder."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.preprocessing import normalize
from tqdm.auto import tqdm

from ..audio.errors import AudioInputError, source_name
from ..embedding.embedder import AudioEmbedder
from ..embedding.overlap import half_overlapping
from .pairs import file_pairs
from .reading import compare_folder, embed_pending
from .results import Changes, Duplicate, Hit
from .store import AudioIndexError, IndexedFile, Manifest, new_vectors, read_index, without_rows, write_index

WINDOW_SECONDS = 2.0
# Windows after which an update writes the index, so that an interrupted one loses no more: three hours of sound.
WRITTEN_EVERY = 10_000
# Relative distance between embeddings of the test signal by one encoder on different hardware; others are far beyond.
PROBE_TOLERANCE = 0.01


class AudioIndex:
    """Index of the windows of all recordings of a folder, on disk.

    Windows overlap by half. Their embeddings are normalised, and searched exactly (FAISS). Cosine similarity tells
    sounds apart only where the embedding is whitened, as that of tuned encoders is ([`AudioEmbedder.fit_whitening`]).

    ```python
    index = AudioIndex("index", AudioEmbedder.from_pretrained("path/or/repo"))
    index.update("recordings")
    index.search("example.wav")
    ```

    Args:
        folder: Folder of the index; it is read if it exists, and written by the first [`update`].
        embedder: The encoder. An index takes only the one that it was made by.
        window_seconds: Length of a window in s; that of the index by default, or 2 s in a new one.

    Raises:
        AudioIndexError: A folder that holds something else, a damaged index, or one made by another encoder, layer,
            pooling, whitening or window.
        ImportError: FAISS is not installed.
        ValueError: A window longer than the encoder takes, or too short for it.
    """

    def __init__(self, folder: str | os.PathLike, embedder: AudioEmbedder, window_seconds: float | None = None):
        self.folder, self.embedder = Path(folder), embedder
        self.rate = int(embedder.feature_extractor.sampling_rate)
        probe = probe_embedding(embedder)
        found = read_index(self.folder)
        if found is None:
            name = embedder.model.config.name_or_path or type(embedder.model).__name__
            self.manifest = Manifest(name, window_seconds or WINDOW_SECONDS, probe.tolist())
            self.vectors = new_vectors(embedder.embedding_size)
        else:
            self.manifest, self.vectors = found
            self.check_made_by(probe, window_seconds)
        self.check_window()

    def check_made_by(self, probe: np.ndarray, window_seconds: float | None) -> None:
        """Checks that the index was made by this encoder, with these windows.

        Raises:
            AudioIndexError: It was not.
        """
        made, own = np.array(self.manifest.probe), self.manifest.window_seconds
        if made.shape != probe.shape or np.linalg.norm(made - probe) > PROBE_TOLERANCE * np.linalg.norm(made):
            raise AudioIndexError(
                f"{self.folder} was made by another encoder, layer, pooling or whitening ({self.manifest.encoder}): "
                "its vectors cannot be compared. Give that encoder, or another folder for a new index."
            )
        if window_seconds is not None and window_seconds != own:
            raise AudioIndexError(
                f"{self.folder} has windows of {own:g} s, not {window_seconds:g} s: leave window_seconds out, or give "
                "another folder for a new index."
            )

    def check_window(self) -> None:
        """Checks that the encoder takes windows of this length, and halves of them.

        Raises:
            ValueError: It does not.
        """
        seconds = self.manifest.window_seconds
        shortest = 2 * self.embedder.feature_extractor.min_samples / self.rate
        longest = self.embedder.window_samples / self.rate
        if not shortest <= seconds <= longest:
            raise ValueError(f"window_seconds={seconds:g}: this encoder takes {shortest:g} to {longest:.6g} s.")

    @property
    def files(self) -> dict[str, IndexedFile]:
        """Recordings in the index by their name, in the order of their rows."""
        return self.manifest.files

    def update(self, folder: str | os.PathLike, batch_size: int = 16, progress_bar: bool = True) -> Changes:
        """Brings the index up to date with a folder: only new and changed recordings are embedded.

        The index is written now and then and at the end; an interrupted update goes on where it was written last.

        Args:
            folder: Folder of audio, nested or not, as in [`audio_folder`].
            batch_size: Windows in a batch.
            progress_bar: Whether to show a progress bar, which counts recordings.

        Returns:
            What changed.

        Raises:
            AudioIndexError: A folder that has none of the recordings of the index.
            AudioInputError: Not one recording can be read.
            DataError: No folder, or one without recordings.
        """
        state = compare_folder(folder, self.files)
        if self.files and len(state.missing) == len(self.files):
            raise AudioIndexError(
                f"{self.folder} holds {len(self.files)} recordings, none of which is in {folder}: give the folder that "
                "it was made of, or another index."
            )
        if gone := [*state.missing, *state.changed]:
            self.remove(gone)
        seconds, total = self.manifest.window_seconds, len(state.pending)
        with tqdm(total=total, desc="Indexing", unit="clip", disable=not progress_bar) as bar:
            while state.pending:
                files, vectors = embed_pending(self.embedder, state, seconds, WRITTEN_EVERY, batch_size, bar)
                self.vectors.add(vectors)
                self.manifest.files |= files
                if state.pending and files:
                    self.write()
        if not self.files:
            reason = next(iter(state.unreadable.values()))
            raise AudioInputError(f"None of the {total} recordings could be read; the first: {reason}")
        if gone or total > len(state.unreadable):
            self.write()
        added, changed = ([name for name in names if name in self.files] for names in (state.new, state.changed))
        return Changes(added, changed, state.missing, state.unreadable, state.kept)

    def remove(self, names: list[str]) -> None:
        """Removes recordings from the index in memory."""
        without_rows(self.vectors, self.manifest.rows_of(names))
        for name in names:
            del self.manifest.files[name]

    def write(self) -> None:
        """Writes the index to its folder."""
        write_index(self.folder, self.manifest, self.vectors)

    def search(self, clip: Any, k: int = 10) -> list[Hit]:
        """Finds the places that sound most like a clip, of those that overlap the best one.

        Args:
            clip: A source that [`load_audio`] accepts. Of one that is longer than a window, all windows are compared
                with as many of a recording; the similarity is their mean, to which those beyond its ends add 0. An end
                of the clip that fills no window is left out.
            k: Largest number of places.

        Returns:
            Places, the most similar first.

        Raises:
            AudioIndexError: An index that is empty.
            AudioInputError: A clip that cannot be read, or that is shorter than the encoder's shortest input.
            ValueError: `k` below 1.
        """
        if k < 1:
            raise ValueError(f"k={k}: at least 1.")
        self.check_filled()
        query = self.embed_query(clip)
        # A place overlaps one before it and one after it: of three times as many, k remain.
        _, rows = self.vectors.search(query, min(3 * k, self.vectors.ntotal))
        hits: list[Hit] = []
        for one in sorted(self.aligned(query, rows), key=lambda one: (-one.similarity, one.file, one.start)):
            if not any(one.file == hit.file and one.start < hit.end and hit.start < one.end for hit in hits):
                hits.append(one)
        return hits[:k]

    def aligned(self, query: np.ndarray, rows: np.ndarray) -> Iterator[Hit]:
        """Yields the places where a window of the index meets the window of the query that is most similar to it.

        Args:
            query: Unit embeddings of the query's windows (windows, embedding_size).
            rows: Rows that are similar to each of them (windows, rows).
        """
        first, names = self.manifest.first_rows(), list(self.files)
        half = self.manifest.half_seconds(self.rate)
        owner = np.searchsorted(first, rows, side="right") - 1
        begins = rows - first[owner] - np.arange(len(query))[:, None]  # may be before the file
        for number, begin in sorted(set(zip(owner.ravel().tolist(), begins.ravel().tolist(), strict=True))):
            entry = self.files[names[number]]
            low, high = max(begin, 0), min(begin + len(query), entry.windows)
            vectors = self.vectors.reconstruct_n(int(first[number]) + low, high - low)
            similarity = float((vectors * query[low - begin : high - begin]).sum() / len(query))
            yield Hit(names[number], low * half, min((high + 1) * half, entry.seconds), similarity)

    def embed_query(self, clip: Any) -> np.ndarray:
        """Unit embeddings (windows, embedding_size) float32 of a clip.

        Raises:
            AudioInputError: A clip that cannot be read, or that is shorter than the encoder's shortest input.
        """
        shortest = self.embedder.feature_extractor.min_samples
        whole = 2 * round(self.manifest.half_seconds(self.rate) * self.rate)

        def windows() -> Iterator[np.ndarray]:
            for number, window in enumerate(half_overlapping(clip, self.rate, self.manifest.window_seconds)):
                if len(window) < shortest:
                    raise AudioInputError(
                        f"{source_name(clip)}: {1000 * len(window) / self.rate:.3g} ms; a query has at least "
                        f"{1000 * shortest / self.rate:.3g} ms, the encoder's shortest input."
                    )
                if number == 0 or len(window) == whole:
                    yield window

        return normalize(self.embedder.encode(windows(), progress_bar=False))

    def duplicates(self, threshold: float = 0.95, progress_bar: bool = True) -> list[Duplicate]:
        """Finds pairs of recordings that share windows of nearly the same embedding.

        Args:
            threshold: Least cosine similarity of two windows that count as the same, in (0, 1).
            progress_bar: Whether to show a progress bar, which counts windows.

        Returns:
            Pairs, those that share most first.

        Raises:
            AudioIndexError: An index that is empty.
            ValueError: A threshold outside (0, 1).
        """
        if not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold}: a cosine similarity in (0, 1).")
        self.check_filled()
        counts = np.array([entry.windows for entry in self.files.values()])
        found = []
        for pair in file_pairs(self.vectors, counts, threshold, progress_bar):
            (file, start), (other, other_start) = self.manifest.places([pair.row, pair.other_row], self.rate)
            share = pair.windows / counts[pair.file]
            found.append(Duplicate(file, other, start, other_start, pair.similarity, float(share)))
        return sorted(found, key=lambda one: (-one.share, -one.similarity, one.file, one.other))

    def check_filled(self) -> None:
        """Checks that there is something to search.

        Raises:
            AudioIndexError: There is not.
        """
        if not self.files:
            raise AudioIndexError(f"{self.folder} holds no recordings: update it with a folder first.")


def probe_embedding(embedder: AudioEmbedder) -> np.ndarray:
    """Embedding (embedding_size,) float32 of one second of noise, the same everywhere."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=embedder.feature_extractor.sampling_rate)
    return embedder.encode(noise.astype(np.float32), progress_bar=False)


__all__ = ["AudioIndex"]
