"""Recordings and training data from what users have: folders, flags, or a table with an audio column."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch.utils.data import IterableDataset as TorchIterableDataset

from ..models.front_ends import FrontEnd
from .arguments import DataArguments, PreparedData, prepare, prepare_recordings
from .metadata import DataError
from .recordings import load_recordings
from .tables import with_audio, with_sample_ids
from .undecoded import read_stream
from .where import rows_where


def open_recordings(source: Any, audio_column: str = "audio", where: Sequence[str] = ()) -> tuple[Dataset, str]:
    """A table of recordings as [`load_recordings`] gives it, and a name for it.

    Args:
        source: Folder or folders of audio; a `datasets.Dataset`, whose paths are trusted; or a finite stream of
            `datasets`, which is read once, to its end, see [`read_stream`].
        audio_column: Column of a `datasets.Dataset` that holds the audio.
        where: Conditions `COLUMN=VALUE[,VALUE...]` on rows, see [`load_recordings`].

    Raises:
        DataError: a missing folder or column, several splits, a stream of torch, an empty table, or rows that no
            condition chooses.
        TypeError: anything else.
    """
    if isinstance(source, (DatasetDict, IterableDatasetDict)):
        raise DataError(f"A dictionary of splits ({', '.join(source)}): give one of them, as in dataset['train'].")
    if isinstance(source, (Dataset, IterableDataset)):
        name = source.info.dataset_name or "a table of recordings"
        if isinstance(source, IterableDataset):
            source = read_stream(source)
        if len(source) == 0:
            raise DataError(f"{name} has no rows.")
        table = with_sample_ids(with_audio(source, audio_column, name), name)
        return (table.select(rows_where(table, where)) if where else table), ", ".join([name, *where])
    if isinstance(source, TorchIterableDataset):  # streams of datasets are of this class, too
        raise DataError(
            "A stream of torch has neither a length nor rows that can be found again. Give a stream of datasets "
            "(IterableDataset), which is read once to its end, a table, or a folder."
        )
    folders = [source] if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(folders, Sequence) or not all(isinstance(folder, (str, os.PathLike)) for folder in folders):
        raise TypeError(f"{type(source).__name__}: give folders of audio or a datasets.Dataset with an audio column.")
    if audio_column != "audio":
        raise DataError("audio_column is a column of a datasets.Dataset, and has no effect on folders.")
    for folder in folders:
        if not Path(folder).is_dir():
            raise DataError(
                f"{folder} is not a folder. For a dataset of the Hub give datasets.load_dataset(...) or "
                "DataArguments(dataset_name=...)."
            )
    names = [Path(folder).resolve().name for folder in folders]
    return load_recordings([os.fspath(folder) for folder in folders], where=where), ", ".join([*names, *where])


@dataclass(frozen=True)
class TrainingData:
    """Training data that are read when they are needed.

    Args:
        prepare: Gives the cached log-mels by a feature extractor.
        name: Name of the data, for the model card.
        dataset_id: Their id on the Hub, if they have one.
    """

    prepare: Callable[[FrontEnd], PreparedData]
    name: str
    dataset_id: str | None = None


def training_data(
    source: Any,
    audio_column: str = "audio",
    label_column: str | None = None,
    group_column: str | None = None,
    on_error: str = "raise",
    guarded: bool = False,
) -> TrainingData:
    """Training data from folders, [`DataArguments`], a `datasets.Dataset` or [`PreparedData`].

    Args:
        source: The data.
        audio_column: Column of a `datasets.Dataset` that holds the audio.
        label_column: Column of labels, for checks.
        group_column: Column of the speaker or source, for checks.
        on_error: `"raise"`, or `"skip"` to leave unreadable recordings out.
        guarded: Whether whole groups are held out for guards, so that groups have an effect without labels.

    Raises:
        DataError: data that cannot be used, see [`open_recordings`]; or arguments that have no effect on these data.
        TypeError: data of another kind.
    """
    given = {"audio_column": audio_column != "audio", "label_column": label_column is not None,
             "group_column": group_column is not None, "on_error": on_error != "raise"}  # fmt: skip
    idle = ", ".join(name for name, is_given in given.items() if is_given)
    if isinstance(source, (DataArguments, PreparedData)):
        if idle:
            raise DataError(f"{idle}: without effect here, a {type(source).__name__} has its own.")
        if isinstance(source, PreparedData):
            return TrainingData(lambda extractor: source, "prepared recordings")
        check_groups(source.label_column or guarded, source.group_column)
        return TrainingData(lambda extractor: prepare(source, extractor), source.source, source.dataset_name)
    check_groups(label_column or guarded, group_column)
    recordings, name = open_recordings(source, audio_column)
    return TrainingData(
        lambda extractor: prepare_recordings(recordings, extractor, label_column, group_column, on_error), name
    )


def check_groups(used: str | bool | None, group_column: str | None) -> None:
    """Refuses groups without the labels whose check they are for.

    Args:
        used: The column of labels, or whether something else uses the groups.
        group_column: The column of the groups.

    Raises:
        DataError: `group_column` without a use.
    """
    if group_column and not used:
        raise DataError(
            f"group_column={group_column} has no use here: it says whose neighbours do not count in the kNN check, "
            "which takes label_column, and which clips guards hold out together, which takes guard=stop or guard=warn."
        )


__all__ = ["TrainingData", "open_recordings", "training_data"]
