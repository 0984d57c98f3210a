"""The flags by which every example finds its data, and what they give."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset

from ..models.audio_mae.feature_extraction_audio_mae import AudioMAEFeatureExtractor
from .groups import read_groups
from .log_mels import cached_log_mels
from .metadata import DataError
from .recordings import load_recordings, report_skipped
from .where import column_as_text


@dataclass
class DataArguments:
    """Where the recordings are and which of them to use."""

    train_dir: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of sound, nested or not, with or without metadata.csv, .jsonl or .parquet."},
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, instead of a folder."})
    dataset_split: str = field(default="train", metadata={"help": "Split of that dataset."})
    audio_column: str = field(default="audio", metadata={"help": "Column of that dataset that holds the sound."})
    where: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Rows to use: COLUMN=VALUE[,VALUE...]; all conditions must hold, each value must occur, and one "
            "with a comma stands in double quotes. Of several folders, FOLDER:COLUMN=VALUE restricts one.",
            "action": "extend",
        },
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Labels: what fine-tuning learns, and what tuning is checked with alone."}
    )
    group_column: str | None = field(
        default=None,
        metadata={"help": "Speaker or source, which does not come on both sides of a split, nor counts in checks."},
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={"help": "What to do with an unreadable recording: stop and name it, or leave it out."},
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Where log-mels are cached; datasets' cache if unset."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.train_dir, str):
            self.train_dir = [self.train_dir]

    @property
    def source(self) -> str:
        """Name of the data, for the model card."""
        names = [self.dataset_name] if self.dataset_name else [Path(folder).resolve().name for folder in self.train_dir]
        return ", ".join([*names, *self.where])


@dataclass
class PreparedData:
    """
    Args:
        dataset: Columns `log_mel`, `length`, `sample_id` and, where labels are known, `labels` (class numbers; -1 for
            a clip without).
        label_names: Names of the class numbers. groups: Per row, of [`read_groups`].
        skipped: Unreadable recordings and why.
        recordings: Of [`load_recordings`], undecoded, row by row those of `dataset`.
    """

    dataset: Dataset
    label_names: list[str]
    groups: np.ndarray | None
    skipped: dict[str, str]
    recordings: Dataset

    def report_skipped(self) -> None:
        """Lists the recordings that were left out."""
        report_skipped(self.skipped)


def prepare(args: DataArguments, feature_extractor: AudioMAEFeatureExtractor) -> PreparedData:
    """Recordings that the flags name, as cached log-mels.

    Raises:
        DataError: missing folder, column or rows. AudioInputError: an unreadable recording, unless they are skipped.
    """
    if not hasattr(feature_extractor, "log_mels"):
        raise DataError(
            f"{type(feature_extractor).__name__} makes no raw log-mels to cut views from. Give an "
            "AudioMAEFeatureExtractor with its mean, std and max_length, and wrap the encoder with "
            "UaMixForContrastiveTuning.from_encoder."
        )
    recordings = load_recordings(args.train_dir, args.dataset_name, args.dataset_split, args.audio_column, args.where)
    labels = column_as_text(recordings, args.label_column) if args.label_column else None
    groups = read_groups(recordings, args.group_column)
    log_mels = cached_log_mels(recordings, feature_extractor, args.on_error, args.cache_dir)
    dataset = log_mels.dataset
    row_of = {sample: row for row, sample in enumerate(recordings["sample_id"])}
    rows = [row_of[int(sample)] for sample in dataset["sample_id"]]
    names: list[str] = []
    if labels is not None:
        texts = [labels[row] for row in rows]
        names = sorted(set(texts) - {""})
        if not names:
            raise DataError(f"Not one clip has a {args.label_column}: leave out --label_column.")
        numbers = {name: number for number, name in enumerate(names)} | {"": -1}
        dataset = dataset.add_column("labels", [numbers[text] for text in texts])
    groups = None if groups is None else groups[rows]
    return PreparedData(dataset, names, groups, log_mels.skipped, recordings.select(rows))


__all__ = ["DataArguments", "PreparedData", "prepare"]
