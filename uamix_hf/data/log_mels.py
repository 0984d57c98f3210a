"""Recordings to raw log-mels, computed once and kept on disk as float16."""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array2D, Dataset, Features, Value, concatenate_datasets, config
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm.auto import tqdm

from ..audio.errors import DamagedAudioWarning, TruncatedAudioWarning, source_name
from ..audio.loading import load_audio
from ..models.audio_mae.feature_extraction_audio_mae import AudioInputError, AudioMAEFeatureExtractor
from .metadata import DataError

logger = logging.getLogger(__name__)

# What is said of a recording's sound while it is read.
WARNINGS: dict[str, type[Warning]] = {
    kind.__name__: kind for kind in (DamagedAudioWarning, TruncatedAudioWarning, UserWarning)
}


@dataclass
class LogMels:
    """Raw log-mels of a table of recordings.

    Args:
        dataset: Columns `log_mel` (frames, mel bins) float32 rounded to float16, `length` in frames, `sample_id`.
        skipped: Recordings that could not be read, by name, with the reason.
    """

    dataset: Dataset
    skipped: dict[str, str]


def source_key(value: Mapping[str, Any]) -> Any:
    """What identifies the sound of a row: its path, size and time of change, or a hash of its bytes."""
    if value.get("bytes") is not None:
        return hashlib.sha256(value["bytes"]).digest()  # the bytes themselves would all be held at once
    path = Path(value["path"])
    status = path.stat() if path.is_file() else None
    return str(path), status and (status.st_size, status.st_mtime_ns)


def read_log_mel(value: Any, feature_extractor: AudioMAEFeatureExtractor) -> np.ndarray:
    """Raw log-mel (frames, mel bins) float16 of a value of an audio column.

    Raises:
        AudioInputError: with the name of the recording.
    """
    try:
        wave = load_audio(value, feature_extractor.sampling_rate)
        return feature_extractor.log_mels([wave])[0].numpy().astype(np.float16)
    except AudioInputError as error:
        name = source_name(value)
        raise error if name in str(error) else AudioInputError(f"{name}: {error}") from error


def read_with_warnings(value: Any, feature_extractor: AudioMAEFeatureExtractor) -> tuple[np.ndarray, str]:
    """As [`read_log_mel`], and what was warned of meanwhile, as JSON: it holds for the cached log-mel, too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log_mel = read_log_mel(value, feature_extractor)
    said = [(item.category.__name__, str(item.message)) for item in caught if item.category.__name__ in WARNINGS]
    return log_mel, json.dumps(said)


def cached_part(
    recordings: Dataset, feature_extractor: AudioMAEFeatureExtractor, on_error: str, folder: str
) -> tuple[Dataset | None, dict[int, str]]:
    """Those rows of a table that can be read, from the cache or else into it: the columns of [`LogMels`], `row` and
    `warnings`. None where there are none: such a result is not kept.

    With them, what is wrong with each other row, by its number, where the recordings were read just now.
    """
    features = Features(
        log_mel=Array2D((None, feature_extractor.num_mel_bins), "float16"),
        length=Value("int32"),
        sample_id=Value("int64"),
        row=Value("int64"),
        warnings=Value("string"),
    )
    failed: dict[int, str] = {}

    def rows() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(tqdm(recordings, desc="Decoding", unit="clip")):
            try:
                log_mel, said = read_with_warnings(row["audio"], feature_extractor)
            except AudioInputError as problem:
                failed[number] = str(problem)
                if on_error == "raise" or len(failed) == len(recordings):
                    raise
                continue
            yield {
                "log_mel": log_mel, "length": len(log_mel), "sample_id": row["sample_id"], "row": number,
                "warnings": said,
            }  # fmt: skip

    keys = [(source_key(row["audio"]), row["sample_id"]) for row in recordings]
    fingerprint = Hasher.hash((keys, feature_extractor.to_json_string(), list(features)))
    shown = not are_progress_bars_disabled()
    disable_progress_bars()  # ours knows how many there are
    try:
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


def cached_log_mels(
    recordings: Dataset,
    feature_extractor: AudioMAEFeatureExtractor,
    on_error: str = "raise",
    cache_dir: str | Path | None = None,
) -> LogMels:
    """Decodes each recording once; a second call with the same files and settings reads the cache. What could not be
    read is tried again each time, and what was warned of is warned of again.

    float16 holds log-mels (-16 to 15) to 0.008; bfloat16 would to 0.06 only.

    Args:
        recordings: From [`load_recordings`]. on_error: `"raise"`, or `"skip"` to leave unreadable recordings out.
        cache_dir: `datasets`' own cache by default.

    Raises:
        AudioInputError: the first unreadable recording, by name (`on_error="raise"`), or all are unreadable.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: there are 'raise' and 'skip'.")
    folder = str(cache_dir or config.HF_DATASETS_CACHE)
    parts, places = [], []
    failed: dict[int, str] = {}
    left = np.arange(len(recordings))
    while len(left) and not failed:  # of a part from the cache, the other rows are read again
        part, failed = cached_part(recordings.select(left), feature_extractor, on_error, folder)
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
    return LogMels(dataset.remove_columns(["row", "warnings"]).with_format("torch"), skipped)


def compute_norm_stats(
    dataset: Iterable[Any], feature_extractor: AudioMAEFeatureExtractor, audio_column: str = "audio"
) -> tuple[float, float]:
    """Mean and standard deviation of the log-mels of one's own data, over all frames and bins, padding left out.

    Args:
        dataset: Rows with a column `log_mel` (of [`cached_log_mels`]) or `audio_column`, or bare waveforms.
        feature_extractor: Makes the log-mels; give the result to a new one as `mean` and `std`.

    Raises:
        AudioInputError: an unreadable recording. DataError: no rows.
    """
    count, total, squares = 0, 0.0, 0.0
    for row in dataset:
        if isinstance(row, Mapping) and "log_mel" in row:
            log_mel = np.asarray(row["log_mel"], np.float64)
        else:
            value = row[audio_column] if isinstance(row, Mapping) and audio_column in row else row
            log_mel = read_log_mel(value, feature_extractor).astype(np.float64)
        count, total, squares = count + log_mel.size, total + log_mel.sum(), squares + np.square(log_mel).sum()
    if count == 0:
        raise DataError("There are no recordings to compute statistics of.")
    mean = total / count
    return float(mean), float(np.sqrt(max(squares / count - mean**2, 0.0)))


__all__ = ["LogMels", "cached_log_mels", "compute_norm_stats"]
