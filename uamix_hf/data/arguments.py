"""Data flags of the examples, and the data that they describe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset

from ..models.front_ends import FrontEnd
from .checks import checked_count
from .features import cached_features
from .groups import read_groups
from .metadata import DataError
from .recordings import load_recordings, report_skipped
from .where import column_as_text


@dataclass
class DataArguments:
    """Which recordings to use."""

    train_dir: list[str] = field(
        default_factory=list,
        metadata={"help": "Audio folders, nested or not, with or without metadata.csv, .jsonl or .parquet."},
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, instead of a folder."})
    dataset_split: str = field(default="train", metadata={"help": "Split of that dataset."})
    audio_column: str = field(default="audio", metadata={"help": "Audio column of that dataset."})
    where: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Rows to use: COLUMN=VALUE[,VALUE...]; all conditions must hold, and each value must occur. Put "
            "a value with a comma in double quotes. With several folders, FOLDER:COLUMN=VALUE restricts one.",
            "action": "extend",
        },
    )
    label_column: str | None = field(
        default=None,
        metadata={"help": "Column of the labels: fine-tuning learns them, tuning is only monitored with them."},
    )
    group_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the speaker or source: a group stays on one side of a split, and is no neighbour in kNN."
        },
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={"help": "Whether an unreadable recording is an error (raise), or is left out (skip)."},
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder of the log-mel cache; datasets' cache if unset."}
    )
    preprocessing_num_workers: int = field(
        default=1, metadata={"help": "Processes that decode recordings into that cache, with the same result."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.train_dir, str):
            self.train_dir = [self.train_dir]
        checked_count("preprocessing_num_workers", self.preprocessing_num_workers)

    @property
    def source(self) -> str:
        """Name of the data, for the model card."""
        names = [self.dataset_name] if self.dataset_name else [Path(folder).resolve().name for folder in self.train_dir]
        return ", ".join([*names, *self.where])


@dataclass
class PreparedData:
    """Data of [`prepare`].

    Args:
        dataset: Columns `features`, `length`, `sample_id` and, with a label column, `labels` (class numbers; -1 for a
            clip without label).
        label_names: Class names in the order of their numbers.
        groups: Group number of each row, from [`read_groups`], or None.
        skipped: The reason for each unreadable recording, by its name.
        recordings: Table of [`load_recordings`], undecoded, with the same rows as `dataset`.
    """

    dataset: Dataset
    label_names: list[str]
    groups: np.ndarray | None
    skipped: dict[str, str]
    recordings: Dataset

    def report_skipped(self) -> None:
        """Prints the recordings that were left out."""
        report_skipped(self.skipped)


def prepare(args: DataArguments, feature_extractor: FrontEnd) -> PreparedData:
    """Loads the recordings that the arguments describe, as cached log-mels.

    Args:
        args: Where the recordings are, and which of them to use.
        feature_extractor: Makes the log-mels.

    Raises:
        DataError: a missing folder, column or row, or another kind of feature extractor.
        AudioInputError: an unreadable recording, unless they are skipped.
    """
    check_extractor(feature_extractor)
    recordings = load_recordings(args.train_dir, args.dataset_name, args.dataset_split, args.audio_column, args.where)
    return prepare_recordings(
        recordings,
        feature_extractor,
        args.label_column,
        args.group_column,
        args.on_error,
        args.cache_dir,
        args.preprocessing_num_workers,
    )


def check_extractor(feature_extractor: FrontEnd) -> None:
    """Checks that a feature extractor makes raw log-mels.

    Raises:
        DataError: it does not.
    """
    if not hasattr(feature_extractor, "raw_features"):
        raise DataError(
            f"{type(feature_extractor).__name__} makes no raw log-mels to cut views from. Give an "
            "AudioMAEFeatureExtractor with its mean, std and max_length, and wrap the encoder with "
            "UaMixForContrastiveTuning.from_encoder."
        )


def prepare_recordings(
    recordings: Dataset,
    feature_extractor: FrontEnd,
    label_column: str | None = None,
    group_column: str | None = None,
    on_error: str = "raise",
    cache_dir: str | None = None,
    preprocessing_num_workers: int = 1,
) -> PreparedData:
    """A table of recordings as cached log-mels.

    Args:
        recordings: Table from [`load_recordings`].
        feature_extractor: Makes the log-mels.
        label_column: Column of the labels, if any.
        group_column: Column of the speaker or source, if any.
        on_error: `"raise"`, or `"skip"` to leave unreadable recordings out.
        cache_dir: Where log-mels are cached; `datasets`' cache by default.
        preprocessing_num_workers: Processes that decode, with the same result.

    Raises:
        DataError: a missing column, no label at all, or another kind of feature extractor.
        AudioInputError: an unreadable recording, unless they are skipped.
    """
    check_extractor(feature_extractor)
    labels = column_as_text(recordings, label_column) if label_column else None
    groups = read_groups(recordings, group_column)
    log_mels = cached_features(recordings, feature_extractor, on_error, cache_dir, preprocessing_num_workers)
    dataset = log_mels.dataset
    row_of = {sample: row for row, sample in enumerate(recordings["sample_id"])}
    rows = [row_of[int(sample)] for sample in dataset["sample_id"]]
    names: list[str] = []
    if labels is not None:
        texts = [labels[row] for row in rows]
        names = sorted(set(texts) - {""})
        if not names:
            raise DataError(f"Not one clip has a {label_column}: leave out --label_column.")
        numbers = {name: number for number, name in enumerate(names)} | {"": -1}
        dataset = dataset.add_column("labels", [numbers[text] for text in texts])
    groups = None if groups is None else groups[rows]
    return PreparedData(dataset, names, groups, log_mels.skipped, recordings.select(rows))


__all__ = ["DataArguments", "PreparedData", "prepare", "prepare_recordings"]
