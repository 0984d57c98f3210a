"""Raw log-mels of recordings, computed once and cached on disk as float16."""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Array2D, Dataset, Features, Value, concatenate_datasets, config
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from ..audio.errors import DamagedAudioWarning, TruncatedAudioWarning, source_name
from ..audio.loading import load_audio
from ..models.audio_mae.feature_extraction_audio_mae import AudioInputError
from ..models.front_ends import FrontEnd
from .checks import checked_count
from .domains import LOG_MEL
from .metadata import DataError

logger = logging.getLogger(__name__)

# Warnings about a recording's audio, which are cached with its log-mel.
WARNINGS: dict[str, type[Warning]] = {
    kind.__name__: kind for kind in (DamagedAudioWarning, TruncatedAudioWarning, UserWarning)
}


@dataclass
class CachedFeatures:
    """Raw log-mels of a table of recordings.

    Args:
        dataset: Columns `features` (frames, mel bins) float32 rounded to float16, `length` in frames, `sample_id`.
        skipped: The reason for each recording that could not be read, by its name.
    """

    dataset: Dataset
    skipped: dict[str, str]


def source_key(value: Mapping[str, Any]) -> Any:
    """Key that identifies the audio of a row: path, size and modification time, or a hash of its bytes."""
    if value.get("bytes") is not None:
        return hashlib.sha256(value["bytes"]).digest()  # keys of the bytes themselves would keep all of them in memory
    path = Path(value["path"])
    status = path.stat() if path.is_file() else None
    return str(path), status and (status.st_size, status.st_mtime_ns)


def read_features(value: Any, feature_extractor: FrontEnd) -> np.ndarray:
    """Computes the raw log-mel (frames, mel bins) float16 of a value of an audio column.

    Raises:
        AudioInputError: An unreadable recording; the message names it.
    """
    try:
        wave = load_audio(value, feature_extractor.sampling_rate)
        return feature_extractor.raw_features([wave])[0].numpy().astype(np.float16)
    except AudioInputError as error:
        name = source_name(value)
        raise error if name in str(error) else AudioInputError(f"{name}: {error}") from error


def read_with_warnings(value: Any, feature_extractor: FrontEnd) -> tuple[np.ndarray, str]:
    """As [`read_features`], also returning the warnings as JSON, to cache them with the log-mel."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log_mel = read_features(value, feature_extractor)
    said = [(item.category.__name__, str(item.message)) for item in caught if item.category.__name__ in WARNINGS]
    return log_mel, json.dumps(said)


class ReadRecordings(TorchDataset):
    """Rows of a table as log-mels with warnings, or the error of an unreadable one, for the processes of a loader.

    Args:
        recordings: The table.
        feature_extractor: Makes the log-mels.
    """

    def __init__(self, recordings: Dataset, feature_extractor: FrontEnd):
        self.recordings = recordings
        self.feature_extractor = feature_extractor

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, number: int) -> tuple[np.ndarray, str] | AudioInputError:
        try:
            return read_with_warnings(self.recordings[number]["audio"], self.feature_extractor)
        except AudioInputError as error:
            return error

    def loader(self, processes: int) -> DataLoader:
        """Loads all rows in order, by processes if there are several; they are two rows ahead each."""
        return DataLoader(
            self,
            batch_size=None,
            num_workers=0 if processes == 1 else processes,
            collate_fn=as_it_is,
            generator=torch.Generator(),  # the run's own draws are those of a run that finds the log-mels in the cache
        )


def as_it_is(row: Any) -> Any:
    """What a loader returns: no tensors."""
    return row


@contextmanager
def one_thread() -> Iterator[None]:
    """One PyTorch thread, as the processes of a loader have: with more, some log-mels are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cached_part(
    recordings: Dataset, feature_extractor: FrontEnd, on_error: str, folder: str, processes: int
) -> tuple[Dataset | None, dict[int, str]]:
    """Reads the rows of a table from the cache, or decodes them into it.

    Returns:
        The readable rows, with the columns of [`CachedFeatures`], `row` and `warnings`, or None if there are none,
        which is not cached; and if the recordings were decoded now, the error of each unreadable row by its number.

    Raises:
        AudioInputError: The first unreadable recording (`on_error="raise"`).
    """
    features = Features(
        features=Array2D((None, feature_extractor.feature_size), "float16"),
        length=Value("int32"),
        sample_id=Value("int64"),
        row=Value("int64"),
        warnings=Value("string"),
    )
    failed: dict[int, str] = {}

    def rows() -> Iterator[dict[str, Any]]:
        loader = ReadRecordings(recordings, feature_extractor).loader(min(processes, len(recordings)))
        # tqdm begins twice with what is no iterator.
        for number, read in enumerate(tqdm(iter(loader), "Decoding", total=len(recordings), unit="clip")):
            if isinstance(read, AudioInputError):
                failed[number] = str(read)
                if on_error == "raise" or len(failed) == len(recordings):
                    raise read
                continue
            made, said = read
            yield {
                "features": made, "length": len(made), "sample_id": recordings[number]["sample_id"], "row": number,
                "warnings": said,
            }  # fmt: skip

    keys = [(source_key(row["audio"]), row["sample_id"]) for row in recordings]
    fingerprint = Hasher.hash((keys, feature_extractor.to_json_string(), list(features)))
    shown = not are_progress_bars_disabled()
    disable_progress_bars()  # the bar above knows the number of rows
    try:
        with one_thread():
            return Dataset.from_generator(rows, features=features, cache_dir=folder, fingerprint=fingerprint), failed
    except DatasetGenerationError as wrapped:
        if not isinstance(wrapped.__cause__, AudioInputError):
            raise
        if on_error == "raise":
            raise wrapped.__cause__ from None
        return None, failed
    finally:
        if shown:
            enable_progress_bars()


def cached_features(
    recordings: Dataset,
    feature_extractor: FrontEnd,
    on_error: str = "raise",
    cache_dir: str | Path | None = None,
    preprocessing_num_workers: int = 1,
) -> CachedFeatures:
    """Computes the log-mels of recordings, or reads them from the cache.

    A second call with the same files and settings reads the cache, and repeats the warnings. Unreadable recordings are
    tried again each time. float16 stores log-mels (-16 to 15) to 0.008; bfloat16 would only to 0.06.

    Args:
        recordings: Table of [`load_recordings`].
        feature_extractor: Makes the log-mels.
        on_error: `"raise"`, or `"skip"` to leave unreadable recordings out.
        cache_dir: Folder of the cache; `datasets`' own by default.
        preprocessing_num_workers: Processes that decode, with the same result; 1 is this process.

    Raises:
        AudioInputError: The first unreadable recording, by name (`on_error="raise"`), or all are unreadable.
        ValueError: An unknown `on_error`, or fewer than one process.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: there are 'raise' and 'skip'.")
    processes = checked_count("preprocessing_num_workers", preprocessing_num_workers)
    folder = str(cache_dir or config.HF_DATASETS_CACHE)
    parts, places = [], []
    failed: dict[int, str] = {}
    left = np.arange(len(recordings))
    while len(left) and not failed:  # rows that a cached part lacks are tried again
        part, failed = cached_part(recordings.select(left), feature_extractor, on_error, folder, processes)
        if part is not None:
            parts.append(part)
            places.append(left[part["row"][:]])
        skipped = {source_name(recordings[int(left[row])]["audio"]): reason for row, reason in failed.items()}
        left = np.setdiff1d(left, places[-1]) if part is not None else left
    if not parts:
        raise AudioInputError(
            f"None of the {len(recordings)} recordings could be read; the first: {next(iter(failed.values()), '')}"
        )
    if len(left):
        logger.warning("Left out %d of %d recordings that could not be read.", len(left), len(recordings))
    dataset = concatenate_datasets(parts)
    if len(parts) > 1:  # in the order of the table
        dataset = dataset.select(np.argsort(np.concatenate(places)))
    for said in dataset["warnings"][:]:
        for kind, text in json.loads(said):
            warnings.warn(text, WARNINGS[kind], stacklevel=2)
    return CachedFeatures(dataset.remove_columns(["row", "warnings"]).with_format("torch"), skipped)


def compute_norm_stats(
    dataset: Iterable[Any], feature_extractor: FrontEnd, audio_column: str = "audio"
) -> tuple[float, float]:
    """Computes mean and standard deviation of your own log-mels, over all frames and bins without padding.

    Args:
        dataset: Rows with a column `features` (of [`cached_features`]) or `audio_column`, or waveforms.
        feature_extractor: Makes the log-mels; pass the result to a new one as `mean` and `std`.
        audio_column: Name of the audio column.

    Returns:
        Mean and standard deviation.

    Raises:
        AudioInputError: An unreadable recording.
        DataError: No rows, or waveforms, which are not normalised by statistics.
    """
    if feature_extractor.domain != LOG_MEL:
        raise DataError(
            f"{type(feature_extractor).__name__} makes waveforms, whose encoders take no statistics of the data: each "
            "clip is normalised on its own, if at all."
        )
    count, total, squares = 0, 0.0, 0.0
    for row in dataset:
        if isinstance(row, Mapping) and "features" in row:
            log_mel = np.asarray(row["features"], np.float64)
        else:
            value = row[audio_column] if isinstance(row, Mapping) and audio_column in row else row
            log_mel = read_features(value, feature_extractor).astype(np.float64)
        count, total, squares = count + log_mel.size, total + log_mel.sum(), squares + np.square(log_mel).sum()
    if count == 0:
        raise DataError("There are no recordings to compute statistics from.")
    mean = total / count
    return float(mean), float(np.sqrt(max(squares / count - mean**2, 0.0)))


__all__ = ["CachedFeatures", "cached_features", "compute_norm_stats"]
